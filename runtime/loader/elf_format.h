// The ELF structures of this machine, and what its relocations are called.
#ifndef EDGEVIT_LOADER_ELF_FORMAT_H_
#define EDGEVIT_LOADER_ELF_FORMAT_H_

#include <elf.h>
#include <link.h>

#include <cstdint>

namespace edgevit {

// DT_RELR is younger than some C libraries' elf.h.
inline constexpr int kDynamicRelrSize = 35;
inline constexpr int kDynamicRelr = 36;

using ElfHeader = ElfW(Ehdr);
using ElfSegment = ElfW(Phdr);
using ElfDynamic = ElfW(Dyn);
using ElfSymbol = ElfW(Sym);
using ElfWord = ElfW(Addr);  // as wide as a pointer

#if defined(__LP64__)
inline constexpr unsigned char kElfClass = ELFCLASS64;
using ElfRelocation = Elf64_Rela;
inline constexpr int kRelocationTable = DT_RELA;
inline constexpr int kRelocationTableSize = DT_RELASZ;
inline constexpr int kOtherRelocationTable = DT_REL;
inline uint32_t RelocationSymbol(ElfWord info) { return static_cast<uint32_t>(info >> 32); }
inline uint32_t RelocationType(ElfWord info) { return static_cast<uint32_t>(info); }
#else
inline constexpr unsigned char kElfClass = ELFCLASS32;
using ElfRelocation = Elf32_Rel;
inline constexpr int kRelocationTable = DT_REL;
inline constexpr int kRelocationTableSize = DT_RELSZ;
inline constexpr int kOtherRelocationTable = DT_RELA;
inline uint32_t RelocationSymbol(ElfWord info) { return info >> 8; }
inline uint32_t RelocationType(ElfWord info) { return info & 0xff; }
#endif

// What a relocation asks for, whatever the machine calls it.
enum class RelocationKind { kNone, kRelative, kSymbol, kUnsupported };

#if defined(__x86_64__)
inline constexpr uint16_t kElfMachine = EM_X86_64;
inline RelocationKind KindOf(uint32_t type) {
  switch (type) {
    case R_X86_64_NONE:
      return RelocationKind::kNone;
    case R_X86_64_RELATIVE:
      return RelocationKind::kRelative;
    case R_X86_64_64:
    case R_X86_64_GLOB_DAT:
    case R_X86_64_JUMP_SLOT:
      return RelocationKind::kSymbol;
    default:
      return RelocationKind::kUnsupported;
  }
}
#elif defined(__aarch64__)
inline constexpr uint16_t kElfMachine = EM_AARCH64;
inline RelocationKind KindOf(uint32_t type) {
  switch (type) {
    case R_AARCH64_NONE:
      return RelocationKind::kNone;
    case R_AARCH64_RELATIVE:
      return RelocationKind::kRelative;
    case R_AARCH64_ABS64:
    case R_AARCH64_GLOB_DAT:
    case R_AARCH64_JUMP_SLOT:
      return RelocationKind::kSymbol;
    default:
      return RelocationKind::kUnsupported;
  }
}
#elif defined(__arm__)
inline constexpr uint16_t kElfMachine = EM_ARM;
inline RelocationKind KindOf(uint32_t type) {
  switch (type) {
    case R_ARM_NONE:
      return RelocationKind::kNone;
    case R_ARM_RELATIVE:
      return RelocationKind::kRelative;
    case R_ARM_ABS32:
    case R_ARM_GLOB_DAT:
    case R_ARM_JUMP_SLOT:
      return RelocationKind::kSymbol;
    default:
      return RelocationKind::kUnsupported;
  }
}
#else
#error "the loader knows x86_64, aarch64 and arm"
#endif

// A JUMP_SLOT or GLOB_DAT of these machines ignores what lies in the slot; ABS32 on arm adds to it.
inline bool AddsSlotContent(uint32_t type) {
#if defined(__arm__)
  return type == R_ARM_ABS32 || type == R_ARM_RELATIVE;
#else
  (void)type;
  return false;
#endif
}

// The name people use for an ELF machine number, for messages.
inline const char* MachineName(uint16_t machine) {
  switch (machine) {
    case EM_X86_64:
      return "x86_64";
    case EM_AARCH64:
      return "aarch64";
    case EM_ARM:
      return "armv7";
    case EM_386:
      return "i386";
    case EM_RISCV:
      return "riscv";
    default:
      return "another machine";
  }
}

}  // namespace edgevit

#endif  // EDGEVIT_LOADER_ELF_FORMAT_H_
