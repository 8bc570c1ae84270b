// Threads that change only when told to: a stack each, and a switch that saves what a call must preserve.
#pragma once

#include <stdint.h>

struct Fiber {
  void* stack;
};

extern "C" void ev_switch(void** save, void* load);

#if defined(__x86_64__)
asm(R"(
.text
.hidden ev_switch
.globl ev_switch
.type ev_switch, @function
ev_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  retq
.size ev_switch, .-ev_switch
)");

inline void fiber_start(Fiber* fiber, uint8_t* stack, uint64_t bytes, void (*body)()) {
  void** top = (void**)(stack + bytes) - 1;
  *--top = (void*)body;  // returned to with the stack as after a call
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber->stack = top;
}
#elif defined(__aarch64__)
asm(R"(
.text
.hidden ev_switch
.globl ev_switch
.type ev_switch, %function
ev_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size ev_switch, .-ev_switch
)");

inline void fiber_start(Fiber* fiber, uint8_t* stack, uint64_t bytes, void (*body)()) {
  void** frame = (void**)(stack + bytes - 160);
  for (int i = 0; i < 20; ++i) frame[i] = nullptr;
  frame[11] = (void*)body;  // x30
  fiber->stack = frame;
}
#else
#error "there is no switch between fibers for this processor"
#endif

inline void fiber_switch(Fiber* from, Fiber* to) { ev_switch(&from->stack, to->stack); }
