// A shared object's segments in memory: checked against the file, mapped, unmapped at the end.
#ifndef EDGEVIT_LOADER_ELF_SEGMENTS_H_
#define EDGEVIT_LOADER_ELF_SEGMENTS_H_

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "elf_format.h"

namespace edgevit {

// The file is no library that can be loaded here; what() says why.
class LoadError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class ElfSegments {
 public:
  // Maps every PT_LOAD segment of the file at `path`. Throws LoadError, leaving nothing mapped.
  explicit ElfSegments(const std::string& path);
  ~ElfSegments();
  ElfSegments(const ElfSegments&) = delete;
  ElfSegments& operator=(const ElfSegments&) = delete;

  // The `count` objects at a virtual address of the file, or an error naming `what` when they are
  // not wholly inside one mapped segment.
  template <typename T>
  const T* At(uint64_t address, uint64_t count, const char* what) const {
    if (address % alignof(T) != 0) Fail(std::string(what) + " is misaligned");
    return static_cast<const T*>(Range(address, count, sizeof(T), 0, what));
  }

  // The same for one word that will be written.
  void* WritableWord(uint64_t address, const char* what) const {
    return const_cast<void*>(Range(address, 1, sizeof(ElfWord), PF_W, what));
  }

  // The same for an address that will be called.
  void CheckCode(uint64_t address, const char* what) const { Range(address, 1, 1, PF_X, what); }

  // True when the address lies in the image, or one past its end.
  bool Contains(uint64_t address) const { return address <= span_; }

  // From an address in the file to the address in memory.
  ElfWord Relocated(uint64_t address) const {
    return static_cast<ElfWord>(reinterpret_cast<uintptr_t>(base_) + address);
  }

  // The PT_DYNAMIC segment.
  const ElfSegment& dynamic() const { return dynamic_; }

  // Takes write access from what only relocation had to write (PT_GNU_RELRO).
  void ProtectRelocated();

  [[noreturn]] void Fail(const std::string& why) const;

 private:
  void ReadHeader(int file, uint64_t file_size);
  void ReadSegments(int file, uint64_t file_size);
  void CheckSegment(const ElfSegment& segment, uint64_t file_size);
  void Reserve();
  void Map(int file, const ElfSegment& segment);
  void MapFile(int file, uint64_t offset, char* start, uint64_t pages, uint64_t bytes,
               int protection);
  void Unmap();
  const void* Range(uint64_t address, uint64_t count, uint64_t size, unsigned flags,
                    const char* what) const;

  std::string path_;
  uint64_t page_;
  ElfHeader header_{};
  std::vector<ElfSegment> loads_;
  ElfSegment dynamic_{};
  ElfSegment relro_{};
  uint64_t alignment_ = 1;
  uint64_t span_ = 0;         // bytes from address 0 to the end of the last segment, whole pages
  char* reserved_ = nullptr;  // what mmap returned, `reserved_size_` bytes
  size_t reserved_size_ = 0;
  char* base_ = nullptr;  // memory address of the file's address 0
};

}  // namespace edgevit

#endif  // EDGEVIT_LOADER_ELF_SEGMENTS_H_
