// What the runtime, the preludes of both languages and the Python side agree on.
#pragma once

#include <stdint.h>

// One thread's place in its launch. The Python side does not see it.
struct EvItem {
  uint32_t group[3], local[3], groups[3], threads[3];
  uint32_t index;  // of the thread in its group
  uint32_t simd;   // threads that execute together
};

typedef void (*EvEntry)(void** arguments, const EvItem* item);

// A buffer of a launch; mirrored by `_Buffer` in executor.py.
struct EvBuffer {
  uint8_t* data;
  uint64_t bytes;
  uint32_t element;  // bytes of a scalar
  int32_t same_as;   // position of an earlier argument that is this very buffer, else -1
  int32_t constant;  // whether no kernel may write it: weights, and inputs of the model
  uint8_t* defined;  // one byte for each byte of data, 0 where nobody has written; null where all is defined
  uint64_t bytes_read, bytes_written;        // out: as issued by all threads
  uint64_t distinct_read, distinct_written;  // out: different bytes touched
};

// One launch; mirrored by `_Launch` in executor.py.
struct EvLaunch {
  EvEntry entry;
  uint32_t groups[3], threads[3];
  uint32_t simd, max_threads;
  uint64_t local_limit;
  uint32_t count;
  int32_t checked;  // whether accesses were instrumented
  EvBuffer* buffers;
  char* fault;  // out: what went wrong
  uint64_t fault_size;
  uint64_t local_bytes;  // out: shared memory of a group
  uint64_t barriers;     // out: rendezvous of groups
};

enum EvFence { EV_LOCAL = 1, EV_GLOBAL = 2 };

extern "C" {
// Runs a launch; 0, or 1 with a text in `fault`.
int ev_launch(EvLaunch* launch);

// For the preludes: where an array that the group shares lies. All threads of a group get the same address.
void* ev_shared(const char* name, uint64_t bytes, uint32_t element);
// Wait until all threads of the group are at the barrier in this line of the text.
void ev_barrier(uint32_t fences, uint32_t line);
// Publish a value to the threads that execute together, then read the one of `lane`; lanes that do not exist give
// a NaN's bit pattern.
void ev_exchange(const void* mine, void* theirs, uint64_t bytes, uint32_t lane, uint32_t line);
const EvItem* ev_item(void);
// A number of the running thread's place: `what` counts EvItem's arrays.
uint32_t ev_id(uint32_t what, uint32_t dimension);
[[noreturn]] void ev_trap(const char* what);
}
