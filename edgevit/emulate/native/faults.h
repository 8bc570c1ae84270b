// Faults: each says what happened, where, and who did it, and ends the launch.
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "state.h"

namespace {

[[noreturn]] void leave() {
  faulted = true;
  fiber_switch(&threads[current].fiber, &scheduler);
  abort();
}

void put_where(char* text, size_t size, uint32_t thread) {
  const uint32_t* n = launch->threads;
  snprintf(text, size, "thread (%u,%u,%u) of group (%u,%u,%u)", thread % n[0], thread / n[0] % n[1],
           thread / (n[0] * n[1]), item.group[0], item.group[1], item.group[2]);
}

__attribute__((format(printf, 1, 2))) void say(const char* format, ...) {
  va_list values;
  va_start(values, format);
  vsnprintf(launch->fault, launch->fault_size, format, values);
  va_end(values);
}

void put_slot(char* text, size_t size, const Slot& slot) {
  if (slot.shared)
    snprintf(text, size, "shared array %s", slot.name);
  else
    snprintf(text, size, "buffer %u", slot.argument);
}

[[noreturn]] void out_of_bounds(const Slot& slot, int64_t offset, uint64_t size, bool write) {
  char who[96], what[96], where[64];
  put_where(who, sizeof who, current);
  put_slot(what, sizeof what, slot);
  if (offset < 0)
    snprintf(where, sizeof where, "%lld bytes before", -(long long)offset);
  else if (offset >= (int64_t)slot.bytes)
    snprintf(where, sizeof where, "%lld bytes past the end of", (long long)(offset - (int64_t)slot.bytes));
  else
    snprintf(where, sizeof where, "across the end of");
  say("out-of-bounds %s of %llu bytes, %s %s (%llu bytes) by %s", write ? "write" : "read", (unsigned long long)size,
      where, what, (unsigned long long)slot.bytes, who);
  leave();
}

[[noreturn]] void uninitialised(const Slot& slot, uint64_t offset) {
  char who[96], what[96];
  put_where(who, sizeof who, current);
  put_slot(what, sizeof what, slot);
  say("uninitialised read at byte %llu of %s by %s: %s", (unsigned long long)offset, what, who,
      slot.shared ? "no thread of the group has written it before; is a barrier missing?" : "nobody has written it");
  leave();
}

[[noreturn]] void constant_written(const Slot& slot, uint64_t offset) {
  char who[96];
  put_where(who, sizeof who, current);
  say("write at byte %llu of buffer %u by %s: it holds weights or an input of the model", (unsigned long long)offset,
      slot.argument, who);
  leave();
}

[[noreturn]] void race(const Slot& slot, uint64_t offset, Mark other, const char* theirs, const char* mine) {
  char who[96], what[96], with[96];
  put_where(who, sizeof who, current);
  put_slot(what, sizeof what, slot);
  if (other == kManyGroups || group_of(other) != group_index + 1) {
    snprintf(with, sizeof with, "another group");
    say("race between groups of one launch: byte %llu of %s is %s by %s and %s by %s",
        (unsigned long long)offset, what, theirs, with, mine, who);
    leave();
  }
  if (thread_of(other) == kManyThreads)
    snprintf(with, sizeof with, "several threads");
  else
    put_where(with, sizeof with, thread_of(other));
  say("race: byte %llu of %s is %s by %s and %s by %s between the same barriers; is a barrier missing?",
      (unsigned long long)offset, what, theirs, with, mine, who);
  leave();
}

}  // namespace
