#include "elf_segments.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace edgevit {
namespace {

// Limits on what a header may ask for. Compiled models have about ten segments and are as large as
// their weights.
constexpr uint64_t kMaxSegments = 64;
constexpr uint64_t kMaxSpan = sizeof(void*) == 8 ? uint64_t{8} << 30 : uint64_t{1} << 30;
constexpr uint64_t kMaxAlignment = 2 << 20;

// Closes a file at the end of a scope.
class File {
 public:
  explicit File(const std::string& path) : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

bool ReadAt(int file, uint64_t offset, void* data, size_t size) {
  return pread(file, data, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size);
}

int Protection(const ElfSegment& segment) {
  return ((segment.p_flags & PF_R) ? PROT_READ : 0) | ((segment.p_flags & PF_W) ? PROT_WRITE : 0) |
         ((segment.p_flags & PF_X) ? PROT_EXEC : 0);
}

}  // namespace

ElfSegments::ElfSegments(const std::string& path)
    : path_(path), page_(static_cast<uint64_t>(sysconf(_SC_PAGESIZE))) {
  const File file(path);
  if (file.get() < 0) Fail(std::strerror(errno));
  struct stat status{};
  if (fstat(file.get(), &status) != 0) Fail(std::strerror(errno));
  if (!S_ISREG(status.st_mode)) Fail("it is not a regular file");
  const auto file_size = static_cast<uint64_t>(status.st_size);
  ReadHeader(file.get(), file_size);
  ReadSegments(file.get(), file_size);
  try {
    Reserve();
    for (const ElfSegment& segment : loads_) Map(file.get(), segment);
  } catch (...) {
    Unmap();
    throw;
  }
}

ElfSegments::~ElfSegments() { Unmap(); }

void ElfSegments::Fail(const std::string& why) const {
  std::string message = "cannot load " + path_.substr(path_.rfind('/') + 1) + ": " + why;
  // A damaged library's names may be any bytes, but messages travel as text.
  std::replace_if(message.begin(), message.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  throw LoadError(message);
}

void ElfSegments::ReadHeader(int file, uint64_t file_size) {
  if (file_size < EI_NIDENT || !ReadAt(file, 0, header_.e_ident, EI_NIDENT) ||
      std::memcmp(header_.e_ident, ELFMAG, SELFMAG) != 0) {
    Fail("it is not an ELF shared library");
  }
  // The machine number lies at the same place in 32- and 64-bit files, so that a library for the
  // other width can be named too.
  uint16_t machine = 0;
  if (!ReadAt(file, offsetof(ElfHeader, e_machine), &machine, sizeof(machine))) {
    Fail("the file is truncated in its header");
  }
  if (header_.e_ident[EI_DATA] != ELFDATA2LSB) Fail("library is big-endian, this device is not");
  if (machine != kElfMachine || header_.e_ident[EI_CLASS] != kElfClass) {
    Fail(std::string("library is for ") + MachineName(machine) + ", this device is " +
         MachineName(kElfMachine));
  }
  if (!ReadAt(file, 0, &header_, sizeof(header_))) Fail("the file is truncated in its header");
  if (header_.e_type != ET_DYN) Fail("it is an ELF file, but not a shared library");
  if (header_.e_version != EV_CURRENT) Fail("its ELF version is unknown");
#if defined(__arm__) && defined(__ARM_PCS_VFP)
  if (header_.e_flags & 0x200) Fail("library uses the soft-float calling convention");
#elif defined(__arm__)
  if (header_.e_flags & 0x400) Fail("library uses the hard-float calling convention");
#endif
}

void ElfSegments::ReadSegments(int file, uint64_t file_size) {
  const uint64_t count = header_.e_phnum;
  if (header_.e_phentsize != sizeof(ElfSegment) || count == 0 || count > kMaxSegments) {
    Fail("its program header table is malformed");
  }
  if (header_.e_phoff > file_size || count * sizeof(ElfSegment) > file_size - header_.e_phoff) {
    Fail("the file is truncated in its program headers");
  }
  std::vector<ElfSegment> segments(count);
  if (!ReadAt(file, header_.e_phoff, segments.data(), count * sizeof(ElfSegment))) {
    Fail("its program headers cannot be read");
  }
  for (const ElfSegment& segment : segments) {
    if (segment.p_type == PT_LOAD && segment.p_memsz != 0) CheckSegment(segment, file_size);
    if (segment.p_type == PT_DYNAMIC) dynamic_ = segment;
    if (segment.p_type == PT_GNU_RELRO) relro_ = segment;
    if (segment.p_type == PT_TLS && segment.p_memsz != 0) Fail("it uses thread-local storage");
  }
  if (loads_.empty()) Fail("it has no segment to load");
  if (dynamic_.p_type != PT_DYNAMIC) Fail("it has no dynamic section");
}

// Accepts a PT_LOAD segment into loads_ and extends the span.
void ElfSegments::CheckSegment(const ElfSegment& segment, uint64_t file_size) {
  const uint64_t offset = segment.p_offset;
  const uint64_t address = segment.p_vaddr;
  if (offset > file_size || segment.p_filesz > file_size - offset) {
    Fail("the file is truncated: a segment ends behind it");
  }
  if (segment.p_filesz > segment.p_memsz || address > kMaxSpan || segment.p_memsz > kMaxSpan) {
    Fail("a segment has an impossible size or address");
  }
  if (segment.p_align > 1) {
    const uint64_t align = segment.p_align;
    if ((align & (align - 1)) != 0 || align > kMaxAlignment) Fail("a segment's alignment is odd");
    alignment_ = std::max(alignment_, align);
  }
  if (address % page_ != offset % page_) {
    Fail("its segments do not fit this device's pages of " + std::to_string(page_) + " bytes");
  }
  if ((segment.p_flags & PF_W) && (segment.p_flags & PF_X)) {
    Fail("a segment is both writable and executable");
  }
  if (segment.p_memsz > segment.p_filesz && !(segment.p_flags & PF_W)) {
    Fail("a read-only segment is larger than its bytes in the file");
  }
  if (address / page_ * page_ < span_) {
    Fail("its segments overlap in this device's pages of " + std::to_string(page_) + " bytes");
  }
  span_ = (address + segment.p_memsz + page_ - 1) / page_ * page_;
  loads_.push_back(segment);
}

void ElfSegments::Reserve() {
  const uint64_t slack = alignment_ > page_ ? alignment_ - page_ : 0;
  reserved_size_ = static_cast<size_t>(span_ + slack);
  void* found =
      mmap(nullptr, reserved_size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) {
    Fail("no room for " + std::to_string(span_) + " bytes of address space");
  }
  reserved_ = static_cast<char*>(found);
  const uint64_t align = std::max(alignment_, page_);
  const uint64_t start = (reinterpret_cast<uintptr_t>(found) + align - 1) / align * align;
  base_ = reinterpret_cast<char*>(static_cast<uintptr_t>(start));
}

void ElfSegments::Map(int file, const ElfSegment& segment) {
  const uint64_t lead = segment.p_vaddr % page_;
  char* start = base_ + (segment.p_vaddr - lead);
  const uint64_t file_bytes = segment.p_filesz == 0 ? 0 : lead + segment.p_filesz;
  const uint64_t file_pages = (file_bytes + page_ - 1) / page_ * page_;
  const uint64_t all_pages = (lead + segment.p_memsz + page_ - 1) / page_ * page_;
  const int protection = Protection(segment);
  if (file_pages != 0) {
    MapFile(file, segment.p_offset - lead, start, file_pages, file_bytes, protection);
    // The last page of the file's part holds whatever follows in the file; the rest of the segment
    // must read as zero.
    if (segment.p_memsz > segment.p_filesz) {
      std::memset(start + file_bytes, 0, file_pages - file_bytes);
    }
  }
  if (all_pages > file_pages &&
      mmap(start + file_pages, all_pages - file_pages, protection,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
    Fail(std::string("no memory for its zeroed data: ") + std::strerror(errno));
  }
}

void ElfSegments::MapFile(int file, uint64_t offset, char* start, uint64_t pages, uint64_t bytes,
                          int protection) {
  constexpr int kFlags = MAP_PRIVATE | MAP_FIXED;
  if (mmap(start, pages, protection, kFlags, file, static_cast<off_t>(offset)) != MAP_FAILED)
    return;
  // A work folder mounted noexec refuses to map code, though code may be read and then run.
  const bool refused = (errno == EPERM || errno == EACCES) && (protection & PROT_EXEC);
  constexpr int kWritable = PROT_READ | PROT_WRITE;
  if (!refused || mmap(start, pages, kWritable, kFlags | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ||
      !ReadAt(file, offset, start, bytes) || mprotect(start, pages, protection) != 0) {
    Fail(std::string("a segment cannot be mapped: ") + std::strerror(errno));
  }
  __builtin___clear_cache(start, start + pages);
}

void ElfSegments::Unmap() {
  if (reserved_ != nullptr) munmap(reserved_, reserved_size_);
  reserved_ = nullptr;
}

void ElfSegments::ProtectRelocated() {
  if (relro_.p_memsz == 0) return;
  if (relro_.p_vaddr > span_ || relro_.p_memsz > span_ - relro_.p_vaddr) {
    Fail("its read-only-after-relocation range lies outside the image");
  }
  // Only whole pages: the first and last may hold data that stays writable.
  const uint64_t first = (relro_.p_vaddr + page_ - 1) / page_ * page_;
  const uint64_t last = (relro_.p_vaddr + relro_.p_memsz) / page_ * page_;
  for (const ElfSegment& segment : loads_) {
    const uint64_t from = std::max<uint64_t>(first, segment.p_vaddr / page_ * page_);
    const uint64_t to = std::min<uint64_t>(last, segment.p_vaddr + segment.p_memsz);
    // Never add rights: a range that claims code or constants is left as it is.
    if ((segment.p_flags & PF_W) && from < to) mprotect(base_ + from, to - from, PROT_READ);
  }
}

const void* ElfSegments::Range(uint64_t address, uint64_t count, uint64_t size, unsigned flags,
                               const char* what) const {
  for (const ElfSegment& segment : loads_) {
    if (address < segment.p_vaddr || address - segment.p_vaddr > segment.p_memsz) continue;
    if ((segment.p_flags & (PF_R | flags)) != (PF_R | flags)) continue;
    // What is only read or called must come from the file; what is written may be zeroed data. So
    // the file's size bounds every table, whatever a header claims.
    const uint64_t extent = (flags & PF_W) ? segment.p_memsz : segment.p_filesz;
    const uint64_t start = address - segment.p_vaddr;
    if (start <= extent && count <= (extent - start) / size) return base_ + address;
  }
  Fail(std::string(what) + " lies outside the image");
}

}  // namespace edgevit
