/* The functions a compiled model may use: TVM's C API, libm, the memory functions of the C library, and
 * the arithmetic helpers compilers call on their own. C, because in C++ the names of libm are
 * overloaded. */
#include "host_symbols.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct HostSymbol {
  const char* name;
  void* address;
};

/* Compiler helpers have no header, and TVM's would drag in C++: only the addresses matter here. */
#define HELPER(name) extern void name(void);
#include "host_helpers.inc"
#undef HELPER

#define SYMBOL(name) {#name, (void*)(name)},
#define HELPER(name) SYMBOL(name)
#define REAL(name) SYMBOL(name) SYMBOL(name##f)

static const struct HostSymbol kSymbols[] = {
    /* libm, double and float */
    REAL(acos) REAL(acosh) REAL(asin) REAL(asinh) REAL(atan) REAL(atan2) REAL(atanh) REAL(cbrt)
    REAL(ceil) REAL(copysign) REAL(cos) REAL(cosh) REAL(erf) REAL(erfc) REAL(exp) REAL(exp2)
    REAL(expm1) REAL(fabs) REAL(fdim) REAL(floor) REAL(fma) REAL(fmax) REAL(fmin) REAL(fmod)
    REAL(frexp) REAL(hypot) REAL(ldexp) REAL(lgamma) REAL(llrint) REAL(llround) REAL(log)
    REAL(log10) REAL(log1p) REAL(log2) REAL(logb) REAL(lrint) REAL(lround) REAL(modf)
    REAL(nearbyint) REAL(nextafter) REAL(pow) REAL(remainder) REAL(rint) REAL(round) REAL(scalbn)
    REAL(sin) REAL(sinh) REAL(sqrt) REAL(tan) REAL(tanh) REAL(tgamma) REAL(trunc)
    /* memory and the few others that code generators call */
    SYMBOL(memcpy) SYMBOL(memmove) SYMBOL(memset) SYMBOL(memcmp) SYMBOL(memchr) SYMBOL(strlen)
    SYMBOL(strcmp) SYMBOL(strncmp) SYMBOL(malloc) SYMBOL(calloc) SYMBOL(realloc) SYMBOL(free)
    SYMBOL(aligned_alloc) SYMBOL(posix_memalign) SYMBOL(abort) SYMBOL(qsort) SYMBOL(bsearch)
#include "host_helpers.inc"
};

void* edgevit_host_symbol(const char* name) {
  for (size_t i = 0; i < sizeof(kSymbols) / sizeof(kSymbols[0]); ++i) {
    if (strcmp(kSymbols[i].name, name) == 0) return kSymbols[i].address;
  }
  return NULL;
}
