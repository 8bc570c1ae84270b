// What every access to memory is held against: the bounds of its buffer, and the marks of its bytes.
#pragma once

#include <string.h>
#include <sys/mman.h>

#include "faults.h"

// Where this library, with the constants of the kernels, begins and ends; defined by the linker.
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start[], _end[];

namespace {

// Whether an access with this mark is not ordered before one of mine.
inline bool unordered(Mark other, Mark mine) {
  return group_of(other) != group_of(mine) || (phase_of(other) == phase_of(mine) && other != mine);
}

void reserve_marks(Slot& slot) {
  uint64_t count = slot.bytes + 64;  // enough for one mark a byte
  if (count <= slot.mark_capacity) return;
  uint64_t size = count * sizeof(Mark);
  if (slot.reads) {
    munmap(slot.reads, slot.mark_capacity * sizeof(Mark));
    munmap(slot.writes, slot.mark_capacity * sizeof(Mark));
  }
  slot.reads = (Mark*)mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  slot.writes = (Mark*)mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (slot.reads == MAP_FAILED || slot.writes == MAP_FAILED) abort();
  slot.mark_capacity = count;
}

inline uint64_t mark_count(const Slot& slot) { return (slot.bytes + (1ull << slot.shift) - 1) >> slot.shift; }

// An access narrower than the marks: from now on, one mark for each byte.
__attribute__((noinline)) void refine(Slot& slot) {
  uint64_t factor = 1ull << slot.shift;
  for (uint64_t mark = mark_count(slot); mark-- > 0;)
    for (uint64_t one = factor; one-- > 0;) {
      slot.reads[mark * factor + one] = slot.reads[mark];
      slot.writes[mark * factor + one] = slot.writes[mark];
    }
  slot.shift = 0;
}

inline bool bytes_defined(const uint8_t* defined, uint64_t size) { return memchr(defined, 0, size) == nullptr; }

template <bool kShared>
inline void check_load(Slot& slot, uint64_t offset, uint64_t size) {
  const Mark mine = kShared ? local_mark : global_mark;
  const uint64_t first = offset >> slot.shift, last = (offset + size - 1) >> slot.shift;
  for (uint64_t at = first; at <= last; ++at) {
    const Mark write = slot.writes[at];
    if (kShared) {
      if (group_of(write) != group_of(mine)) uninitialised(slot, at << slot.shift);
      if (unordered(write, mine)) race(slot, at << slot.shift, write, "written", "read");
    } else if (write) {
      if (unordered(write, mine)) race(slot, at << slot.shift, write, "written", "read");
    } else if (slot.defined && !slot.defined[at << slot.shift]) {
      uninitialised(slot, at << slot.shift);
    }
    const Mark read = slot.reads[at];
    if (read == mine) continue;
    if (kShared ? group_of(read) != group_of(mine) : read == 0)
      slot.reads[at] = mine;
    else if (group_of(read) != group_of(mine))
      slot.reads[at] = kManyGroups;
    else
      slot.reads[at] = phase_of(read) == phase_of(mine) ? mine | kManyThreads : mine;
  }
}

template <bool kShared>
inline void check_store(Slot& slot, uint64_t offset, uint64_t size) {
  const Mark mine = kShared ? local_mark : global_mark;
  const uint64_t first = offset >> slot.shift, last = (offset + size - 1) >> slot.shift;
  for (uint64_t at = first; at <= last; ++at) {
    const Mark write = slot.writes[at], read = slot.reads[at];
    // A shared array's marks of earlier groups mean nothing: each group has an array of its own.
    if (write && write != mine && !(kShared && group_of(write) != group_of(mine)) && unordered(write, mine))
      race(slot, at << slot.shift, write, "written", "written");
    if (read && read != mine && !(kShared && group_of(read) != group_of(mine)) && unordered(read, mine))
      race(slot, at << slot.shift, read, "read", "written");
    slot.writes[at] = mine;
  }
}

// Memory that is no buffer: the thread's own variables, and tables in the text.
__attribute__((noinline)) void check_private(uint64_t address, uint64_t size, bool write) {
  if (address >= (uint64_t)stack_low && address + size <= (uint64_t)stack_high) return;
  if (!write && address >= (uint64_t)__ehdr_start && address + size <= (uint64_t)_end) return;
  char who[96];
  put_where(who, sizeof who, current);
  say("%s of %llu bytes at an address that belongs to no buffer by %s", write ? "write" : "read",
      (unsigned long long)size, who);
  leave();
}

inline void check(uint64_t address, uint64_t size, bool write) {
  const uint64_t offset_in_arena = address - (uint64_t)arena;
  if (offset_in_arena >= kSlots * kSlotBytes) {
    check_private(address, size, write);
    return;
  }
  Slot& slot = slots[offset_in_arena >> kSlotBits];
  const uint64_t offset = (offset_in_arena & (kSlotBytes - 1)) - kBias;
  if (offset >= slot.bytes || size > slot.bytes - offset) out_of_bounds(slot, (int64_t)offset, size, write);
  if ((offset | size) & ((1u << slot.shift) - 1)) refine(slot);
  if (write) {
    if (slot.constant) constant_written(slot, offset);
    slot.bytes_written += size;
    slot.shared ? check_store<true>(slot, offset, size) : check_store<false>(slot, offset, size);
  } else {
    slot.bytes_read += size;
    slot.shared ? check_load<true>(slot, offset, size) : check_load<false>(slot, offset, size);
  }
}

void prepare(Slot& slot, uint64_t bytes, uint32_t element, bool shared) {
  slot.bytes = bytes;
  slot.shift = element >= 4 ? 2 : element >> 1;
  slot.shared = shared;
  slot.bytes_read = slot.bytes_written = 0;
  slot.defined = nullptr;
  slot.constant = false;
  slot.base = arena + (&slot - slots) * kSlotBytes + kBias;
  if (bytes > slot.mapped) {
    uint64_t size = (bytes + 4095) & ~4095ull;
    if (mprotect(slot.base, size, PROT_READ | PROT_WRITE)) abort();
    slot.mapped = size;
  }
  if (launch->checked) {
    reserve_marks(slot);
    memset(slot.reads, 0, mark_count(slot) * sizeof(Mark));
    memset(slot.writes, 0, mark_count(slot) * sizeof(Mark));
  }
}

}  // namespace
