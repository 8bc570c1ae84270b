// What the parts of the runtime share: the launch that runs, its threads, and the memory that they may touch.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "fiber.h"
#include "launch.h"

namespace {

// Every buffer lies in a slot of its own, far from all others: an address tells which buffer was meant even when it
// is out of bounds.
constexpr uint64_t kSlotBits = 30, kSlotBytes = 1ull << kSlotBits, kBias = kSlotBytes / 4;
constexpr uint32_t kMaxBuffers = 128, kMaxShared = 32, kSlots = kMaxBuffers + kMaxShared;
constexpr uint32_t kMaxThreads = 2048;
constexpr uint64_t kStackBytes = 256 << 10;
constexpr uint8_t kPoison = 0xff;  // as a float of any width, a NaN

// A mark names an access: group + 1 (32 bits), barriers passed (16 bits), thread (16 bits). 0: none.
typedef uint64_t Mark;
constexpr Mark kManyThreads = 0xffff, kManyGroups = ~0ull;

inline uint64_t group_of(Mark mark) { return mark >> 32; }
inline uint64_t phase_of(Mark mark) { return mark >> 16; }
inline uint32_t thread_of(Mark mark) { return mark & 0xffff; }

struct Slot {
  uint8_t* base;
  uint64_t bytes;
  uint32_t shift;    // log2 of the bytes that one mark covers
  bool shared;       // by a group; else a buffer of the launch
  bool constant;     // no kernel may write it
  Mark *reads, *writes;
  uint64_t mark_capacity, mapped;
  uint8_t* defined;
  uint64_t bytes_read, bytes_written;
  const char* name;  // of a shared array
  uint32_t argument;
};

enum class State : uint8_t { kFresh, kReady, kAtBarrier, kAtExchange, kDone };

struct Thread {
  Fiber fiber;
  uint32_t stack, line;
  State state;
  bool parity;
};

struct Exchange {
  alignas(16) uint8_t value[2][64];
};

uint8_t* arena;
Slot slots[kSlots];
Thread threads[kMaxThreads];
Exchange exchanges[kMaxThreads];
uint8_t* stacks;
uint32_t free_stacks[kMaxThreads], free_count;

EvLaunch* launch;
void* arguments[kMaxBuffers];
EvItem item;
Fiber scheduler;
uint32_t current, thread_count, shared_count, fences;
uint64_t group_index, shared_bytes;
uint16_t local_phase, global_phase;
Mark local_mark, global_mark;  // of the running thread
uint8_t *stack_low, *stack_high;
bool faulted;

}  // namespace
