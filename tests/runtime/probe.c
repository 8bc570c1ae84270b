/* A library such as compiled models are, with functions that provoke what a server must survive. */
#include <stdint.h>

typedef struct {
  int32_t type_index;
  uint32_t padding;
  union {
    int64_t integer;
    double real;
  } value;
} Any;

enum { kInt = 1, kFloat = 3 };

#define EXPORT(name) int __tvm_ffi_##name(void* self, const Any* args, int32_t count, Any* result)

static int return_integer(Any* result, int64_t value) {
  result->type_index = kInt;
  result->padding = 0;
  result->value.integer = value;
  return 0;
}

EXPORT(add) { return return_integer(result, args[0].value.integer + args[1].value.integer); }

float expf(float);
EXPORT(exponential) {
  result->type_index = kFloat;
  result->padding = 0;
  result->value.real = expf((float)args[0].value.real);
  return 0;
}

/* Pointers in data: relative relocations. */
static const int64_t kOne = 1, kTen = 10, kHundred = 100;
static const int64_t* const kTable[] = {&kOne, &kTen, &kHundred, &kTen, &kOne};
EXPORT(table) { return return_integer(result, *kTable[args[0].value.integer]); }

/* Zeroed data, over several pages, behind data from the file. */
static volatile char zeroed[200000];
static volatile int64_t stored = 41;
EXPORT(sum_of_zeroed) {
  int64_t sum = stored;
  for (int i = 0; i < (int)sizeof(zeroed); ++i) sum += zeroed[i];
  return return_integer(result, sum);
}

__attribute__((weak)) extern int absent_and_optional(void);
EXPORT(weak_is_null) { return return_integer(result, absent_and_optional == 0); }

#ifdef WITH_INITIALISER
static int64_t initialised;
__attribute__((constructor)) static void initialise(void) { initialised = 7; }
EXPORT(initialised) { return return_integer(result, initialised); }
#endif

EXPORT(hang) {
  for (volatile int forever = 1; forever;) {
  }
  return return_integer(result, 0);
}

EXPORT(crash) {
  *(volatile int*)16 = 1;
  return return_integer(result, 0);
}

/* A kernel on TVM's thread pool, with more local data than a thread of musl gets unasked. */
typedef struct {
  void* handle;
  int32_t count;
} Group;
int TVMBackendParallelLaunch(int (*task)(int, Group*, void*), void* data, int count);
static int task(int id, Group* group, void* data) {
  volatile char local[1 << 20];
  for (int i = 0; i < (int)sizeof(local); i += 512) local[i] = (char)id;
  ((int64_t*)data)[id] = local[1 << 19] + 1 + 100 * group->count;
  return 0;
}
EXPORT(parallel) {
  int64_t seen[64] = {0}, sum = 0;
  if (TVMBackendParallelLaunch(task, seen, 0) != 0) return -1;
  for (int i = 0; i < 64; ++i) sum += seen[i];
  return return_integer(result, sum);
}

#ifdef WITH_MISSING
int missing_one(void);
int missing_two(void);
EXPORT(missing) { return return_integer(result, missing_one() + missing_two()); }
#endif

#ifdef WITH_THREAD_LOCAL
_Thread_local int per_thread = 3;
EXPORT(per_thread) { return return_integer(result, per_thread++); }
#endif
