#include "work_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace edgevit {
namespace {

constexpr char kPrefix[] = "edgevit-server-session-";
// A folder younger than this may just not be locked yet.
constexpr time_t kStaleAfterSeconds = 60;

// Names in an open folder. Takes over the descriptor.
std::vector<std::string> ListNames(int descriptor) {
  std::vector<std::string> names;
  DIR* folder = fdopendir(descriptor);
  if (folder == nullptr) {
    close(descriptor);
    return names;
  }
  while (const dirent* entry = readdir(folder)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  closedir(folder);
  return names;
}

void RemoveAt(int parent, const std::string& name) {
  if (unlinkat(parent, name.c_str(), 0) == 0 || errno == ENOENT) return;
  const int folder = openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder < 0) return;
  const Descriptor keep(dup(folder));
  for (const std::string& inner : ListNames(folder)) RemoveAt(keep.get(), inner);
  unlinkat(parent, name.c_str(), AT_REMOVEDIR);
}

bool IsStale(int parent, const std::string& name) {
  struct stat status{};
  if (fstatat(parent, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return false;
  if (!S_ISDIR(status.st_mode) || status.st_uid != geteuid()) return false;
  if (time(nullptr) - status.st_mtime < kStaleAfterSeconds) return false;
  const Descriptor folder(openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return folder && flock(folder.get(), LOCK_EX | LOCK_NB) == 0;
}

}  // namespace

void RemoveTree(const std::string& path) { RemoveAt(AT_FDCWD, path); }

std::string WorkFolderParent(const std::string& asked) {
  const char* temporary = std::getenv("TMPDIR");
  std::vector<std::string> candidates;
  if (!asked.empty()) {
    candidates = {asked};
  } else {
    if (temporary != nullptr && *temporary != '\0') candidates.emplace_back(temporary);
    candidates.insert(candidates.end(), {"/tmp", "/data/local/tmp"});
  }
  for (const std::string& candidate : candidates) {
    if (access(candidate.c_str(), W_OK | X_OK) != 0) continue;
    if (char* absolute = realpath(candidate.c_str(), nullptr)) {
      std::string result = absolute;
      std::free(absolute);
      return result;
    }
  }
  throw std::runtime_error("cannot write to the work folder " + candidates.front());
}

void RemoveStaleWorkFolders(const std::string& parent) {
  const int folder = open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  const Descriptor keep(dup(folder));
  for (const std::string& name : ListNames(folder)) {
    if (name.rfind(kPrefix, 0) == 0 && IsStale(keep.get(), name)) RemoveAt(keep.get(), name);
  }
}

WorkFolder::WorkFolder(const std::string& parent) : path_(parent + "/" + kPrefix + "XXXXXX") {
  if (mkdtemp(path_.data()) == nullptr) {
    throw std::runtime_error("cannot make a folder in " + parent + ": " + std::strerror(errno));
  }
  lock_ = Descriptor(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (lock_) flock(lock_.get(), LOCK_EX | LOCK_NB);
}

std::string PathInFolder(const std::string& folder, const std::string& name) {
  if (name.empty() || name == "." || name == ".." ||
      name.find_first_of(std::string_view("/\0", 2)) != std::string::npos) {
    throw std::invalid_argument("'" + name + "' is not a plain file name");
  }
  return folder + "/" + name;
}

}  // namespace edgevit
