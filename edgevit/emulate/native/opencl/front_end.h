// Types and constants that an OpenCL compiler has before the first line of a program (The OpenCL C 2.0 Specification,
// 6.1 and 6.13). Functions are the front end's own table: it offers those that the version and the extensions have.
#pragma once

// The names under which the front end's table knows what OpenCL 2 always has, and what takes the place of generic
// pointers elsewhere: vload and its like come once for each address space.
#if __OPENCL_C_VERSION__ == 200
#define __opencl_c_generic_address_space 1
#define __opencl_c_program_scope_global_variables 1
#define __opencl_c_work_group_collective_functions 1
#define __opencl_c_atomic_order_acq_rel 1
#define __opencl_c_atomic_order_seq_cst 1
#define __opencl_c_atomic_scope_device 1
#endif
#ifndef __opencl_c_generic_address_space
#define __opencl_c_named_address_space_builtins 1
#endif

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
typedef __INTPTR_TYPE__ intptr_t;
typedef __UINTPTR_TYPE__ uintptr_t;

#define EV_VECTORS(T)                                  \
  typedef T T##2 __attribute__((ext_vector_type(2)));  \
  typedef T T##3 __attribute__((ext_vector_type(3)));  \
  typedef T T##4 __attribute__((ext_vector_type(4)));  \
  typedef T T##8 __attribute__((ext_vector_type(8)));  \
  typedef T T##16 __attribute__((ext_vector_type(16)));
EV_VECTORS(char) EV_VECTORS(uchar) EV_VECTORS(short) EV_VECTORS(ushort) EV_VECTORS(int) EV_VECTORS(uint)
EV_VECTORS(long) EV_VECTORS(ulong) EV_VECTORS(float)
#ifdef cl_khr_fp16
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
EV_VECTORS(half)
#pragma OPENCL EXTENSION cl_khr_fp16 : disable
#endif

typedef uint cl_mem_fence_flags;
#define CLK_LOCAL_MEM_FENCE 0x01
#define CLK_GLOBAL_MEM_FENCE 0x02

#define MAXFLOAT 0x1.fffffep127f
#define HUGE_VALF (__builtin_huge_valf())
#define INFINITY (__builtin_inff())
#define NAN as_float(INT_MAX)
#define FLT_MAX 0x1.fffffep127f
#define FLT_MIN 0x1.0p-126f
#define FLT_EPSILON 0x1.0p-23f
#define HALF_MAX ((0x1.ffcp15h))
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 0xffffffffU
#define M_PI_F 3.14159274101257f
