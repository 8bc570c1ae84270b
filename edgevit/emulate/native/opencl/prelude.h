// OpenCL C's built-in functions as far as compiled kernels use them, for execution on this processor.
// Reference: The OpenCL C 2.0 Specification. What is not here is an error when a kernel is compiled.
#pragma OPENCL EXTENSION cl_khr_fp16 : enable

// Kernels become plain functions: not every processor's compiler has a convention for calling kernels.
#define __kernel
#define kernel

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef unsigned long size_t;
typedef long ptrdiff_t;

#define EV_OVER __attribute__((overloadable, always_inline)) static inline
#define EV_VECTORS(T)                                  \
  typedef T T##2 __attribute__((ext_vector_type(2)));  \
  typedef T T##3 __attribute__((ext_vector_type(3)));  \
  typedef T T##4 __attribute__((ext_vector_type(4)));  \
  typedef T T##8 __attribute__((ext_vector_type(8)));  \
  typedef T T##16 __attribute__((ext_vector_type(16)));
EV_VECTORS(half) EV_VECTORS(float) EV_VECTORS(char) EV_VECTORS(uchar) EV_VECTORS(short) EV_VECTORS(ushort)
EV_VECTORS(int) EV_VECTORS(uint) EV_VECTORS(long) EV_VECTORS(ulong)

// Runtime; see launch.h.
uint ev_id(uint what, uint dimension) __attribute__((const));
void* ev_shared(__constant const char* name, ulong bytes, uint element);
void ev_barrier(uint fences, uint line);

// Constant for a thread, so that one call serves all its uses.
#define get_group_id(dimension) ((size_t)ev_id(0, dimension))
#define get_local_id(dimension) ((size_t)ev_id(1, dimension))
#define get_num_groups(dimension) ((size_t)ev_id(2, dimension))
#define get_local_size(dimension) ((size_t)ev_id(3, dimension))
#define get_global_id(dimension) (get_group_id(dimension) * get_local_size(dimension) + get_local_id(dimension))
#define get_global_size(dimension) (get_num_groups(dimension) * get_local_size(dimension))

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")

#define CLK_LOCAL_MEM_FENCE 1u
#define CLK_GLOBAL_MEM_FENCE 2u
#define barrier(fences) ev_barrier(fences, __LINE__)
#define work_group_barrier(fences, ...) ev_barrier(fences, __LINE__)

// convert_T(x) and convert_Tn(x): C's rules, towards zero from floats to integers.
#define EV_FROM_ALL(F, a) F(a, half) F(a, float) F(a, char) F(a, uchar) F(a, short) F(a, ushort) F(a, int) F(a, uint) \
  F(a, long) F(a, ulong)
#define EV_CONVERT(To, From)                                                                              \
  EV_OVER To convert_##To(From x) { return (To)x; }                                                       \
  EV_OVER To##2 convert_##To##2(From##2 x) { return __builtin_convertvector(x, To##2); }                  \
  EV_OVER To##3 convert_##To##3(From##3 x) { return __builtin_convertvector(x, To##3); }                  \
  EV_OVER To##4 convert_##To##4(From##4 x) { return __builtin_convertvector(x, To##4); }                  \
  EV_OVER To##8 convert_##To##8(From##8 x) { return __builtin_convertvector(x, To##8); }                  \
  EV_OVER To##16 convert_##To##16(From##16 x) { return __builtin_convertvector(x, To##16); }
EV_FROM_ALL(EV_CONVERT, half) EV_FROM_ALL(EV_CONVERT, float) EV_FROM_ALL(EV_CONVERT, char)
EV_FROM_ALL(EV_CONVERT, uchar) EV_FROM_ALL(EV_CONVERT, short) EV_FROM_ALL(EV_CONVERT, ushort)
EV_FROM_ALL(EV_CONVERT, int) EV_FROM_ALL(EV_CONVERT, uint) EV_FROM_ALL(EV_CONVERT, long) EV_FROM_ALL(EV_CONVERT, ulong)

// vload and vstore need their pointers aligned to an element only.
#define EV_MEMORY(T, N)                                                                                   \
  EV_OVER T##N vload##N(size_t at, const T* from) {                                                       \
    typedef T##N loose __attribute__((aligned(sizeof(T))));                                               \
    return *(const loose*)(from + at * N);                                                                \
  }                                                                                                       \
  EV_OVER void vstore##N(T##N value, size_t at, T* to) {                                                  \
    typedef T##N loose __attribute__((aligned(sizeof(T))));                                               \
    *(loose*)(to + at * N) = value;                                                                       \
  }
#define EV_MEMORY3(T)                                                                                     \
  EV_OVER T##3 vload3(size_t at, const T* from) {                                                         \
    return (T##3)(from[3 * at], from[3 * at + 1], from[3 * at + 2]);                                      \
  }                                                                                                       \
  EV_OVER void vstore3(T##3 value, size_t at, T* to) {                                                    \
    to[3 * at] = value.x, to[3 * at + 1] = value.y, to[3 * at + 2] = value.z;                             \
  }
#define EV_MEMORIES(T) EV_MEMORY(T, 2) EV_MEMORY3(T) EV_MEMORY(T, 4) EV_MEMORY(T, 8) EV_MEMORY(T, 16)
EV_MEMORIES(half) EV_MEMORIES(float) EV_MEMORIES(char) EV_MEMORIES(uchar) EV_MEMORIES(short) EV_MEMORIES(ushort)
EV_MEMORIES(int) EV_MEMORIES(uint) EV_MEMORIES(long) EV_MEMORIES(ulong)
EV_OVER float vload_half(size_t at, const half* from) { return from[at]; }
EV_OVER float4 vload_half4(size_t at, const half* from) { return convert_float4(vload4(at, from)); }
EV_OVER void vstore_half(float value, size_t at, half* to) { to[at] = (half)value; }
EV_OVER void vstore_half4(float4 value, size_t at, half* to) { vstore4(convert_half4(value), at, to); }

// Functions element by element: float, half (computed in float and rounded once), and vectors of either.
#define EV_EACH1(name, T, N)                                  \
  EV_OVER T##N name(T##N x) {                                 \
    T##N result;                                              \
    for (int i = 0; i < N; ++i) result[i] = name(x[i]);       \
    return result;                                            \
  }
#define EV_EACH2(name, T, N)                                  \
  EV_OVER T##N name(T##N x, T##N y) {                         \
    T##N result;                                              \
    for (int i = 0; i < N; ++i) result[i] = name(x[i], y[i]); \
    return result;                                            \
  }                                                           \
  EV_OVER T##N name(T##N x, T y) { return name(x, (T##N)y); }
#define EV_LENGTHS(F, name, T) F(name, T, 2) F(name, T, 3) F(name, T, 4) F(name, T, 8) F(name, T, 16)
#define EV_MATH(name, value)                                  \
  EV_OVER float name(float x) { return value; }               \
  EV_OVER half name(half half_x) {                            \
    float x = half_x;                                         \
    return (half)(value);                                     \
  }                                                           \
  EV_LENGTHS(EV_EACH1, name, float) EV_LENGTHS(EV_EACH1, name, half)
#define EV_MATH2(name, value)                                 \
  EV_OVER float name(float x, float y) { return value; }      \
  EV_OVER half name(half half_x, half half_y) {               \
    float x = half_x, y = half_y;                             \
    return (half)(value);                                     \
  }                                                           \
  EV_LENGTHS(EV_EACH2, name, float) EV_LENGTHS(EV_EACH2, name, half)
EV_MATH(exp, __builtin_expf(x))
EV_MATH(exp2, __builtin_exp2f(x))
EV_MATH(exp10, __builtin_powf(10.0f, x))
EV_MATH(log, __builtin_logf(x))
EV_MATH(log2, __builtin_log2f(x))
EV_MATH(log10, __builtin_log10f(x))
EV_MATH(sqrt, __builtin_sqrtf(x))
EV_MATH(rsqrt, 1.0f / __builtin_sqrtf(x))
EV_MATH(fabs, __builtin_fabsf(x))
EV_MATH(floor, __builtin_floorf(x))
EV_MATH(ceil, __builtin_ceilf(x))
EV_MATH(trunc, __builtin_truncf(x))
EV_MATH(round, __builtin_roundf(x))
EV_MATH(rint, __builtin_rintf(x))
EV_MATH(sin, __builtin_sinf(x))
EV_MATH(cos, __builtin_cosf(x))
EV_MATH(tan, __builtin_tanf(x))
EV_MATH(atan, __builtin_atanf(x))
EV_MATH(sinh, __builtin_sinhf(x))
EV_MATH(cosh, __builtin_coshf(x))
EV_MATH(tanh, __builtin_tanhf(x))
EV_MATH(erf, __builtin_erff(x))
EV_MATH(sign, x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f)
EV_MATH2(pow, __builtin_powf(x, y))
EV_MATH2(fmod, __builtin_fmodf(x, y))
EV_MATH2(fmax, __builtin_fmaxf(x, y))
EV_MATH2(fmin, __builtin_fminf(x, y))
EV_MATH2(max, x < y ? y : x)
EV_MATH2(min, y < x ? y : x)
#define EV_EXTREMES(T)                                        \
  EV_OVER T max(T x, T y) { return x < y ? y : x; }           \
  EV_OVER T min(T x, T y) { return y < x ? y : x; }           \
  EV_LENGTHS(EV_EACH2, max, T) EV_LENGTHS(EV_EACH2, min, T)
EV_EXTREMES(char) EV_EXTREMES(uchar) EV_EXTREMES(short) EV_EXTREMES(ushort)
EV_EXTREMES(int) EV_EXTREMES(uint) EV_EXTREMES(long) EV_EXTREMES(ulong)
#define native_exp exp
#define native_exp2 exp2
#define native_log log
#define native_recip(x) (1.0f / (x))
#define native_rsqrt rsqrt
#define native_sqrt sqrt
#define half_exp exp

#define EV_THREE(T)                                                                              \
  EV_OVER T clamp(T x, T low, T high) { return min(max(x, low), high); }                         \
  EV_OVER T mad(T a, T b, T c) { return a * b + c; }
#define EV_ALL_LENGTHS(F, T) F(T) F(T##2) F(T##3) F(T##4) F(T##8) F(T##16)
EV_ALL_LENGTHS(EV_THREE, half)
EV_ALL_LENGTHS(EV_THREE, float)
EV_THREE(int)
EV_THREE(uint)
EV_THREE(long)
EV_OVER float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
// The product of two halves is exact in float; its sum with a third is rounded twice, as nearly never shows.
EV_OVER half fma(half a, half b, half c) { return (half)((float)a * (float)b + (float)c); }
#define EV_FMA(T, N)                                                              \
  EV_OVER T##N fma(T##N a, T##N b, T##N c) {                                      \
    T##N result;                                                                  \
    for (int i = 0; i < N; ++i) result[i] = fma(a[i], b[i], c[i]);                \
    return result;                                                                \
  }
EV_FMA(float, 2) EV_FMA(float, 3) EV_FMA(float, 4) EV_FMA(float, 8) EV_FMA(float, 16)
EV_FMA(half, 2) EV_FMA(half, 3) EV_FMA(half, 4) EV_FMA(half, 8) EV_FMA(half, 16)
#define EV_DOT(T)                                                                                        \
  EV_OVER T dot(T##2 a, T##2 b) { return a.x * b.x + a.y * b.y; }                                        \
  EV_OVER T dot(T##3 a, T##3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }                            \
  EV_OVER T dot(T##4 a, T##4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }
EV_DOT(half)
EV_DOT(float)
EV_OVER int abs(int x) { return x < 0 ? -x : x; }
EV_OVER int isnan(float x) { return x != x; }
EV_OVER int isnan(half x) { return x != x; }
EV_OVER int isinf(float x) { return __builtin_isinf(x); }
EV_OVER int isinf(half x) { return __builtin_isinf((float)x); }

// select(no, yes, condition): scalars by truth, vectors by each element's highest bit.
#define EV_SELECT(T, C)                                                                   \
  EV_OVER T select(T no, T yes, C condition) { return condition ? yes : no; }             \
  EV_OVER T##2 select(T##2 no, T##2 yes, C##2 condition) { return condition ? yes : no; } \
  EV_OVER T##4 select(T##4 no, T##4 yes, C##4 condition) { return condition ? yes : no; } \
  EV_OVER T##8 select(T##8 no, T##8 yes, C##8 condition) { return condition ? yes : no; }
EV_SELECT(float, int)
EV_SELECT(half, short)
EV_SELECT(int, int)
EV_SELECT(char, char)
EV_SELECT(uchar, uchar)
EV_SELECT(short, short)
EV_SELECT(ushort, ushort)
EV_SELECT(long, long)

#define EV_AS(To, From)                                           \
  EV_OVER To as_##To(From from) { return __builtin_astype(from, To); }
#define EV_AS_LENGTHS(To, From)                                   \
  EV_AS(To, From) EV_AS(To##2, From##2) EV_AS(To##4, From##4) EV_AS(To##8, From##8)
EV_AS_LENGTHS(float, int) EV_AS_LENGTHS(float, uint) EV_AS_LENGTHS(int, float) EV_AS_LENGTHS(uint, float)
EV_AS_LENGTHS(half, short) EV_AS_LENGTHS(half, ushort) EV_AS_LENGTHS(short, half) EV_AS_LENGTHS(ushort, half)
EV_AS_LENGTHS(int, uint) EV_AS_LENGTHS(uint, int)
