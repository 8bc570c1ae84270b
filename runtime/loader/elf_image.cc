#include "elf_image.h"

#include <algorithm>
#include <cstring>

#include "host_symbols.h"

namespace edgevit {
namespace {

ElfWord Load(const void* word) {
  ElfWord value;
  std::memcpy(&value, word, sizeof(value));
  return value;
}

void Store(void* word, ElfWord value) { std::memcpy(word, &value, sizeof(value)); }

}  // namespace

ElfImage::ElfImage(const std::string& path) : segments_(path) {
  ReadDynamic();
  ReadSymbols();
  ApplyRelative(relative_);
  ApplyTable(relocations_);
  ApplyTable(plt_relocations_);
  CheckResolved();
  segments_.ProtectRelocated();
  Initialise();
}

void* ElfImage::Find(std::string_view name) const {
  const auto found = exports_.find(name);
  return found == exports_.end() ? nullptr : reinterpret_cast<void*>(found->second);
}

void ElfImage::ReadDynamic() {
  const struct {
    int64_t tag;
    uint64_t* value;
  } fields[] = {
      {DT_STRTAB, &strings_.address},
      {DT_STRSZ, &strings_.size},
      {DT_SYMTAB, &symbols_address_},
      {DT_HASH, &hash_},
      {DT_GNU_HASH, &gnu_hash_},
      {kRelocationTable, &relocations_.address},
      {kRelocationTableSize, &relocations_.size},
      {DT_JMPREL, &plt_relocations_.address},
      {DT_PLTRELSZ, &plt_relocations_.size},
      {kDynamicRelr, &relative_.address},
      {kDynamicRelrSize, &relative_.size},
      {DT_INIT, &init_},
      {DT_INIT_ARRAY, &initialisers_.address},
      {DT_INIT_ARRAYSZ, &initialisers_.size},
  };
  const ElfSegment& segment = segments_.dynamic();
  const uint64_t count = segment.p_filesz / sizeof(ElfDynamic);
  const auto* entries = segments_.At<ElfDynamic>(segment.p_vaddr, count, "its dynamic section");
  for (uint64_t i = 0; i < count && entries[i].d_tag != DT_NULL; ++i) {
    CheckDynamic(entries[i]);
    for (const auto& field : fields) {
      if (field.tag == static_cast<int64_t>(entries[i].d_tag)) *field.value = entries[i].d_un.d_val;
    }
  }
}

// Refuses what this loader does not do. Two things are passed over: the libraries it asks for
// (DT_NEEDED), because host_symbols.inc has what may be used of them, and destructors (DT_FINI),
// because compiled models have none.
void ElfImage::CheckDynamic(const ElfDynamic& entry) const {
  const uint64_t value = entry.d_un.d_val;
  constexpr char kFixedCode[] = "its code needs relocation; compile it position-independent";
  switch (entry.d_tag) {
    case DT_SYMENT:
      if (value != sizeof(ElfSymbol)) segments_.Fail("its symbols have an unknown size");
      break;
    case DT_PLTREL:
      if (value != kRelocationTable) segments_.Fail("its PLT relocations have an unknown form");
      break;
    case kOtherRelocationTable:
      segments_.Fail("its relocations have the form of another machine");
    case DT_TEXTREL:
      segments_.Fail(kFixedCode);
    case DT_FLAGS:
      if (value & DF_TEXTREL) segments_.Fail(kFixedCode);
      break;
    default:
      break;
  }
}

void ElfImage::ReadSymbols() {
  if (strings_.size == 0) segments_.Fail("it has no symbol names");
  // A copy, because a hostile relocation may overwrite the original. It ends with a zero, so every
  // name that starts inside it also ends inside it.
  names_.assign(segments_.At<char>(strings_.address, strings_.size, "its string table"),
                strings_.size);
  symbol_count_ = CountSymbols();
  symbols_ = segments_.At<ElfSymbol>(symbols_address_, symbol_count_, "its symbol table");
  for (uint64_t i = 1; i < symbol_count_; ++i) {
    const ElfSymbol& symbol = symbols_[i];
    const int binding = symbol.st_info >> 4;
    if (symbol.st_shndx == SHN_UNDEF || (binding != STB_GLOBAL && binding != STB_WEAK)) continue;
    exports_.emplace(NameOf(symbol), Resolve(symbol));
  }
}

// Dynamic sections do not state the number of symbols; either hash table implies it.
uint64_t ElfImage::CountSymbols() const {
  if (hash_ != 0) return segments_.At<uint32_t>(hash_, 2, "its hash table")[1];
  if (gnu_hash_ == 0) segments_.Fail("it has no symbol hash table");
  constexpr char kWhat[] = "its GNU hash table";
  const auto* header = segments_.At<uint32_t>(gnu_hash_, 4, kWhat);
  const uint64_t bucket_count = header[0];
  const uint64_t first_hashed = header[1];
  const uint64_t buckets_at = gnu_hash_ + 16 + uint64_t{header[2]} * sizeof(ElfWord);
  const auto* buckets = segments_.At<uint32_t>(buckets_at, bucket_count, kWhat);
  uint64_t last = 0;
  for (uint64_t i = 0; i < bucket_count; ++i) last = std::max<uint64_t>(last, buckets[i]);
  if (last < first_hashed) return first_hashed;
  // The chain that starts last also ends last; its end is marked by the lowest bit.
  const uint64_t chains_at = buckets_at + bucket_count * 4;
  while ((*segments_.At<uint32_t>(chains_at + (last - first_hashed) * 4, 1, kWhat) & 1) == 0) {
    ++last;
  }
  return last + 1;
}

const char* ElfImage::NameOf(const ElfSymbol& symbol) const {
  if (symbol.st_name >= names_.size()) segments_.Fail("a symbol's name lies outside its table");
  return names_.c_str() + symbol.st_name;
}

// DT_RELR: a word is either the address of a slot or a bitmap of the slots behind the last one.
void ElfImage::ApplyRelative(const Table& table) {
  constexpr uint64_t kWord = sizeof(ElfWord);
  const uint64_t count = table.size / kWord;
  if (count == 0) return;
  constexpr char kWhat[] = "its table of relative relocations";
  constexpr char kSlot[] = "a relative relocation's slot";
  const auto* entries = segments_.At<ElfWord>(table.address, count, kWhat);
  uint64_t next = 0;
  auto relocate = [&](uint64_t address) {
    void* slot = segments_.WritableWord(address, kSlot);
    Store(slot, segments_.Relocated(Load(slot)));
  };
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t entry = entries[i];
    if ((entry & 1) == 0) {
      relocate(entry);
      next = entry + kWord;
      continue;
    }
    for (uint64_t bit = 1; bit < kWord * 8; ++bit) {
      if ((entry >> bit) & 1) relocate(next + (bit - 1) * kWord);
    }
    next += (kWord * 8 - 1) * kWord;
  }
}

void ElfImage::ApplyTable(const Table& table) {
  const uint64_t count = table.size / sizeof(ElfRelocation);
  if (count == 0) return;
  const auto* entries = segments_.At<ElfRelocation>(table.address, count, "its relocation table");
  for (uint64_t i = 0; i < count; ++i) {
    // A copy: the table itself may be what a hostile relocation overwrites.
    const ElfRelocation entry = entries[i];
    const uint32_t type = RelocationType(entry.r_info);
    ElfWord addend = 0;
#if defined(__LP64__)
    addend = static_cast<ElfWord>(entry.r_addend);
#else
    if (AddsSlotContent(type)) {
      addend = Load(segments_.WritableWord(entry.r_offset, "a relocation's slot"));
    }
#endif
    Apply(entry.r_offset, type, RelocationSymbol(entry.r_info), addend);
  }
}

void ElfImage::Apply(uint64_t address, uint32_t type, uint32_t symbol, ElfWord addend) {
  const RelocationKind kind = KindOf(type);
  if (kind == RelocationKind::kNone) return;
  if (kind == RelocationKind::kUnsupported) {
    segments_.Fail("relocation type " + std::to_string(type) + " of " + MachineName(kElfMachine) +
                   " is not supported");
  }
  void* slot = segments_.WritableWord(address, "a relocation's slot");
  if (kind == RelocationKind::kRelative) {
    Store(slot, segments_.Relocated(addend));
    return;
  }
  if (symbol >= symbol_count_) segments_.Fail("a relocation names a symbol that does not exist");
  Store(slot, Resolve(symbols_[symbol]) + addend);
}

// The address of a symbol, defined here or by the host. Missing names are collected, so that one
// message can list them all.
ElfWord ElfImage::Resolve(const ElfSymbol& symbol) {
  const int type = symbol.st_info & 0xf;
  if (type == STT_TLS || type == STT_GNU_IFUNC) {
    segments_.Fail(std::string("symbol ") + NameOf(symbol) + " is of an unsupported kind");
  }
  if (symbol.st_shndx == SHN_ABS) return symbol.st_value;
  if (symbol.st_shndx != SHN_UNDEF) {
    if (!segments_.Contains(symbol.st_value)) {
      segments_.Fail(std::string("symbol ") + NameOf(symbol) + " lies outside the image");
    }
    return segments_.Relocated(symbol.st_value);
  }
  const char* name = NameOf(symbol);
  if (void* host = edgevit_host_symbol(name)) return reinterpret_cast<ElfWord>(host);
  const bool weak = symbol.st_info >> 4 == STB_WEAK;
  // The first entry of every symbol table is nameless and stands for zero.
  if (!weak && *name != '\0' &&
      std::find(missing_.begin(), missing_.end(), name) == missing_.end()) {
    missing_.emplace_back(name);
  }
  return 0;
}

void ElfImage::CheckResolved() const {
  if (missing_.empty()) return;
  constexpr size_t kShown = 20;
  std::string list;
  for (size_t i = 0; i < std::min(missing_.size(), kShown); ++i) {
    list += (i == 0 ? "" : ", ") + missing_[i];
  }
  if (missing_.size() > kShown)
    list += ", and " + std::to_string(missing_.size() - kShown) + " more";
  segments_.Fail("this server lacks symbols it needs: " + list);
}

void ElfImage::Initialise() const {
  using Initialiser = void (*)();
  constexpr char kWhat[] = "an initialiser";
  if (init_ != 0) {
    segments_.CheckCode(init_, kWhat);
    reinterpret_cast<Initialiser>(segments_.Relocated(init_))();
  }
  const uint64_t count = initialisers_.size / sizeof(ElfWord);
  if (count == 0) return;
  const auto* entries =
      segments_.At<ElfWord>(initialisers_.address, count, "its table of initialisers");
  for (uint64_t i = 0; i < count; ++i) {
    // 0 and -1 mark unused entries. Relocation has made the others addresses in memory.
    if (entries[i] == 0 || entries[i] == static_cast<ElfWord>(-1)) continue;
    segments_.CheckCode(entries[i] - segments_.Relocated(0), kWhat);
    reinterpret_cast<Initialiser>(entries[i])();
  }
}

}  // namespace edgevit
