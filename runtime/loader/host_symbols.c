/* C, because in C++ the names of libm are overloaded. */
#include "host_symbols.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct HostSymbol {
  const char* name;
  void* address;
};

/* First the declarations. TVM's headers would drag in C++ and compiler helpers have none; only
 * their addresses matter here. Which helpers a compiler brings depends on its version, so those may
 * be absent: the address is then null. */
#define TVM_API(name) extern void name(void);
#define HELPER(name) extern __attribute__((weak)) void name(void);
#define LIBC(name)
#define LIBM(name)
#include "host_symbols.inc"
#undef TVM_API
#undef HELPER
#undef LIBC
#undef LIBM

/* Then the table. */
#define ENTRY(name) {#name, (void*)(name)},
#define TVM_API(name) ENTRY(name)
#define HELPER(name) ENTRY(name)
#define LIBC(name) ENTRY(name)
#define LIBM(name) ENTRY(name) ENTRY(name##f)
static const struct HostSymbol kSymbols[] = {
#include "host_symbols.inc"
};

void* edgevit_host_symbol(const char* name) {
  for (size_t i = 0; i < sizeof(kSymbols) / sizeof(kSymbols[0]); ++i) {
    if (strcmp(kSymbols[i].name, name) == 0) return kSymbols[i].address;
  }
  return NULL;
}
