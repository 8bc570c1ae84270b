// Executes the threads of a GPU launch one after the other on this processor, and checks what each of them does.
//
// The kernels' text is compiled with calls before every access to memory (the instrumentation of clang's kernel
// address sanitizer); this file is what they call. Threads are fibers, which change only where the text says that
// threads wait for each other. Between two such places the order is fixed, so what a thread may rely on is not what
// happens here but what the shadow of each byte says: who wrote it and who read it, and after which barrier.
#include "launch.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "faults.h"
#include "memory.h"
#include "state.h"

namespace {

bool set_up() {
  if (arena) return true;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* reserved = mmap(nullptr, kSlots * kSlotBytes, PROT_NONE, flags, -1, 0);
  void* rooms = mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (reserved == MAP_FAILED || rooms == MAP_FAILED) return false;
  arena = (uint8_t*)reserved;
  stacks = (uint8_t*)rooms;
  return true;
}

void run_thread() {
  launch->entry(arguments, &item);
  threads[current].state = State::kDone;
  fiber_switch(&threads[current].fiber, &scheduler);
  abort();
}

void resume(uint32_t index) {
  Thread& thread = threads[index];
  const uint32_t* n = launch->threads;
  if (thread.state == State::kFresh) {
    thread.stack = free_stacks[--free_count];
    fiber_start(&thread.fiber, stacks + thread.stack * kStackBytes, kStackBytes, run_thread);
  }
  thread.state = State::kReady;
  current = index;
  item.index = index;
  item.local[0] = index % n[0];
  item.local[1] = index / n[0] % n[1];
  item.local[2] = index / (n[0] * n[1]);
  local_mark = (group_index + 1) << 32 | (Mark)local_phase << 16 | index;
  global_mark = (group_index + 1) << 32 | (Mark)global_phase << 16 | index;
  stack_low = stacks + thread.stack * kStackBytes;
  stack_high = stack_low + kStackBytes;
  fiber_switch(&scheduler, &thread.fiber);
  if (thread.state == State::kDone) free_stacks[free_count++] = thread.stack;
}

bool diverged(uint32_t waits, uint32_t other, const char* what) {
  char who[96], with[96];
  put_where(who, sizeof who, waits);
  put_where(with, sizeof with, other);
  const Thread& thread = threads[other];
  if (thread.state == State::kDone)
    say("divergent %s: %s waits in line %u of the text, %s has ended", what, who, threads[waits].line, with);
  else
    say("divergent %s: %s waits in line %u of the text, %s in line %u", what, who, threads[waits].line, with,
        thread.line);
  faulted = true;
  return false;
}

// Lets the threads of those SIMD groups go on that are all at the same exchange. Returns whether there were any.
bool release_exchanges(bool* released) {
  for (uint32_t first = 0; first < thread_count; first += launch->simd) {
    uint32_t end = first + launch->simd < thread_count ? first + launch->simd : thread_count, waits = end;
    for (uint32_t i = first; i < end && waits == end; ++i)
      if (threads[i].state == State::kAtExchange) waits = i;
    if (waits == end) continue;
    for (uint32_t i = first; i < end; ++i)
      if (threads[i].state != State::kAtExchange || threads[i].line != threads[waits].line)
        return diverged(waits, i, "SIMD operation");
    for (uint32_t i = first; i < end; ++i) threads[i].state = State::kReady;
    *released = true;
  }
  return true;
}

// Lets all threads go on if they are at the same barrier; `left` tells whether any thread has not ended.
bool release_barrier(bool* left) {
  uint32_t waits = thread_count;
  for (uint32_t i = 0; i < thread_count && waits == thread_count; ++i)
    if (threads[i].state != State::kDone) waits = i;
  *left = waits != thread_count;
  if (!*left) return true;
  for (uint32_t i = 0; i < thread_count; ++i)
    if (threads[i].state != State::kAtBarrier || threads[i].line != threads[waits].line)
      return diverged(waits, i, "barrier");
  for (uint32_t i = 0; i < thread_count; ++i) threads[i].state = State::kReady;
  launch->barriers++;
  if (fences & EV_LOCAL) local_phase++;
  if (fences & EV_GLOBAL) global_phase++;
  return true;
}

bool run_group() {
  for (uint32_t i = 0; i < shared_count; ++i) memset(slots[kMaxBuffers + i].base, kPoison, slots[kMaxBuffers + i].bytes);
  local_phase = global_phase = 0;
  for (uint32_t i = 0; i < thread_count; ++i) {
    threads[i].state = State::kFresh;
    threads[i].parity = false;
  }
  for (bool left = true; left;) {
    for (uint32_t i = 0; i < thread_count; ++i) {
      if (threads[i].state > State::kReady) continue;
      resume(i);
      if (faulted) return false;
    }
    bool released = false;
    if (!release_exchanges(&released)) return false;
    if (!released && !release_barrier(&left)) return false;
  }
  return true;
}

bool bring_buffers() {
  for (uint32_t i = 0; i < launch->count; ++i) {
    EvBuffer& buffer = launch->buffers[i];
    buffer.bytes_read = buffer.bytes_written = buffer.distinct_read = buffer.distinct_written = 0;
    if (!launch->checked) {
      arguments[i] = buffer.data;
      continue;
    }
    if (buffer.same_as >= 0) {
      arguments[i] = arguments[buffer.same_as];
      continue;
    }
    if (buffer.bytes > kSlotBytes / 2) {
      say("buffer %u has %llu bytes, more than emulation holds", i, (unsigned long long)buffer.bytes);
      return false;
    }
    Slot& slot = slots[i];
    prepare(slot, buffer.bytes, buffer.element, false);
    slot.argument = i;
    slot.constant = buffer.constant;
    memcpy(slot.base, buffer.data, buffer.bytes);
    if (buffer.defined && !bytes_defined(buffer.defined, buffer.bytes)) slot.defined = buffer.defined;
    arguments[i] = slot.base;
  }
  return true;
}

void return_buffers() {
  for (uint32_t i = 0; i < launch->count; ++i) {
    EvBuffer& buffer = launch->buffers[i];
    if (!launch->checked) {
      if (buffer.defined) memset(buffer.defined, 1, buffer.bytes);
      continue;
    }
    if (buffer.same_as >= 0) continue;
    Slot& slot = slots[i];
    buffer.bytes_read = slot.bytes_read;
    buffer.bytes_written = slot.bytes_written;
    for (uint64_t at = 0; at < mark_count(slot); ++at) {
      const uint64_t from = at << slot.shift, end = from + (1ull << slot.shift);
      const uint64_t size = (end < slot.bytes ? end : slot.bytes) - from;
      buffer.distinct_read += slot.reads[at] ? size : 0;
      if (!slot.writes[at]) continue;
      buffer.distinct_written += size;
      if (buffer.defined) memset(buffer.defined + from, 1, size);
    }
    if (slot.bytes_written) memcpy(buffer.data, slot.base, slot.bytes);
  }
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int ev_launch(EvLaunch* asked) {
  launch = asked;
  launch->local_bytes = launch->barriers = 0;
  const uint32_t* n = launch->threads;
  const uint64_t size = (uint64_t)n[0] * n[1] * n[2];
  if (size == 0 || size > launch->max_threads || size > kMaxThreads) {
    say("a group of %llu threads (%ux%ux%u), where the target allows %u", (unsigned long long)size, n[0], n[1], n[2],
        launch->max_threads);
    return 1;
  }
  if (launch->count > kMaxBuffers || launch->simd == 0) {
    say("%u buffers, more than emulation holds", launch->count);
    return 1;
  }
  if (!set_up()) {
    say("there is no address space to emulate in");
    return 1;
  }
  if (!bring_buffers()) return 1;
  thread_count = size;
  shared_count = 0;
  shared_bytes = 0;
  faulted = false;
  free_count = 0;
  for (uint32_t i = thread_count; i-- > 0;) free_stacks[free_count++] = i;
  memcpy(item.groups, launch->groups, sizeof item.groups);
  memcpy(item.threads, launch->threads, sizeof item.threads);
  item.simd = launch->simd;
  group_index = 0;
  for (item.group[2] = 0; item.group[2] < launch->groups[2]; ++item.group[2])
    for (item.group[1] = 0; item.group[1] < launch->groups[1]; ++item.group[1])
      for (item.group[0] = 0; item.group[0] < launch->groups[0]; ++item.group[0], ++group_index)
        if (!run_group()) return 1;
  launch->local_bytes = shared_bytes;
  return_buffers();
  return 0;
}

void* ev_shared(const char* name, uint64_t bytes, uint32_t element) {
  for (uint32_t i = 0; i < shared_count; ++i) {
    const Slot& slot = slots[kMaxBuffers + i];
    if (slot.name == name && slot.bytes == bytes) return slot.base;
  }
  shared_bytes = ((shared_bytes + 15) & ~15ull) + bytes;
  if (shared_bytes > launch->local_limit || shared_count == kMaxShared) {
    say("a group's shared memory takes %llu bytes with %s, where the target has %llu", (unsigned long long)shared_bytes,
        name, (unsigned long long)launch->local_limit);
    leave();
  }
  Slot& slot = slots[kMaxBuffers + shared_count++];
  prepare(slot, bytes, element, true);
  slot.name = name;
  memset(slot.base, kPoison, bytes);
  return slot.base;
}

void ev_barrier(uint32_t ordered, uint32_t line) {
  Thread& thread = threads[current];
  thread.state = State::kAtBarrier;
  thread.line = line;
  fences = ordered;
  fiber_switch(&thread.fiber, &scheduler);
}

void ev_exchange(const void* mine, void* theirs, uint64_t bytes, uint32_t lane, uint32_t line) {
  Thread& thread = threads[current];
  const uint32_t first = current - current % launch->simd;
  const bool parity = thread.parity = !thread.parity;
  if (bytes > sizeof exchanges[0].value[0]) ev_trap("a SIMD operation on a value of more than 64 bytes");
  memcpy(exchanges[current].value[parity], mine, bytes);
  thread.state = State::kAtExchange;
  thread.line = line;
  fiber_switch(&thread.fiber, &scheduler);
  if (lane < launch->simd && first + lane < thread_count)
    memcpy(theirs, exchanges[first + lane].value[parity], bytes);
  else
    memset(theirs, kPoison, bytes);
}

const EvItem* ev_item(void) { return &item; }

uint32_t ev_id(uint32_t what, uint32_t dimension) {
  const uint32_t* all[] = {item.group, item.local, item.groups, item.threads};
  return dimension < 3 ? all[what][dimension] : what > 1;
}

void ev_trap(const char* what) {
  char who[96];
  put_where(who, sizeof who, current);
  say("%s by %s", what, who);
  leave();
}

// Called before accesses by instrumented code.
#define EV_HOOKS(size)                                                          \
  void __asan_load##size##_noabort(uint64_t address) { check(address, size, false); } \
  void __asan_store##size##_noabort(uint64_t address) { check(address, size, true); }
EV_HOOKS(1)
EV_HOOKS(2)
EV_HOOKS(4)
EV_HOOKS(8)
EV_HOOKS(16)
void __asan_loadN_noabort(uint64_t address, uint64_t size) { check(address, size, false); }
void __asan_storeN_noabort(uint64_t address, uint64_t size) { check(address, size, true); }
void __asan_handle_no_return(void) {}

void* __asan_memcpy(void* to, const void* from, size_t size) {
  if (size) check((uint64_t)from, size, false), check((uint64_t)to, size, true);
  return memcpy(to, from, size);
}
void* __asan_memmove(void* to, const void* from, size_t size) {
  if (size) check((uint64_t)from, size, false), check((uint64_t)to, size, true);
  return memmove(to, from, size);
}
void* __asan_memset(void* to, int value, size_t size) {
  if (size) check((uint64_t)to, size, true);
  return memset(to, value, size);
}

// Called by clang's checks of undefined behaviour, which know the line.
struct EvSource {
  const char* file;
  uint32_t line, column;
};
static void undefined(const EvSource* source, const char* what) {
  char text[160];
  snprintf(text, sizeof text, "%s in line %u of the text", what, source->line);
  ev_trap(text);
}
void __ubsan_handle_out_of_bounds(EvSource* source, uint64_t) { undefined(source, "array index out of bounds"); }
void __ubsan_handle_divrem_overflow(EvSource* source, uint64_t, uint64_t) { undefined(source, "division by zero"); }
void __ubsan_handle_type_mismatch_v1(EvSource* source, uint64_t) { undefined(source, "misaligned access"); }
}
