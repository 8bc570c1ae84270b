// A shared object, loaded and linked without the system's dynamic linker.
//
// A static executable has no dlopen. Compiled models are simple libraries (no thread-local storage,
// no dependencies beyond the C library, libm and TVM's C API), so this loader is enough for them
// and refuses everything else with a reason.
#ifndef EDGEVIT_LOADER_ELF_IMAGE_H_
#define EDGEVIT_LOADER_ELF_IMAGE_H_

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "elf_segments.h"

namespace edgevit {

class ElfImage {
 public:
  // Maps, relocates and initialises the library. Throws LoadError.
  explicit ElfImage(const std::string& path);

  // Address of an exported symbol, or nullptr.
  void* Find(std::string_view name) const;

 private:
  // A table named by two dynamic entries: its address in the file and its size in bytes.
  struct Table {
    uint64_t address = 0;
    uint64_t size = 0;
  };

  void ReadDynamic();
  void CheckDynamic(const ElfDynamic& entry) const;
  void ReadSymbols();
  uint64_t CountSymbols() const;
  const char* NameOf(const ElfSymbol& symbol) const;
  void ApplyRelative(const Table& table);
  void ApplyTable(const Table& table);
  void Apply(uint64_t address, uint32_t type, uint32_t symbol, ElfWord addend);
  ElfWord Resolve(const ElfSymbol& symbol);
  void CheckResolved() const;
  void Initialise() const;

  ElfSegments segments_;
  Table strings_, relocations_, plt_relocations_, relative_, initialisers_;
  uint64_t symbols_address_ = 0, hash_ = 0, gnu_hash_ = 0, init_ = 0;
  std::string names_;
  const ElfSymbol* symbols_ = nullptr;
  uint64_t symbol_count_ = 0;
  std::unordered_map<std::string_view, ElfWord> exports_;
  std::vector<std::string> missing_;
};

}  // namespace edgevit

#endif  // EDGEVIT_LOADER_ELF_IMAGE_H_
