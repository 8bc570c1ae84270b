// The folder a session keeps its files in.
#ifndef EDGEVIT_SERVER_WORK_FOLDER_H_
#define EDGEVIT_SERVER_WORK_FOLDER_H_

#include <string>

#include "net.h"

namespace edgevit {

// Removes a file or a whole folder; links are removed, never followed. What is not there is no
// error.
void RemoveTree(const std::string& path);

// Where session folders are made: `asked` or, when empty, TMPDIR, /tmp or Android's
// /data/local/tmp. Throws std::runtime_error when no such folder is writable.
std::string WorkFolderParent(const std::string& asked);

// Removes what sessions of servers that were killed left below `parent`.
void RemoveStaleWorkFolders(const std::string& parent);

// A new folder below a parent. It is locked while any process holds this object or inherited it,
// which is how stale folders are told from those in use.
class WorkFolder {
 public:
  explicit WorkFolder(const std::string& parent);
  ~WorkFolder() { RemoveTree(path_); }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;

  const std::string& path() const { return path_; }
  int lock() const { return lock_.get(); }

 private:
  std::string path_;
  Descriptor lock_;
};

// `folder`/`name`. Throws std::invalid_argument for a name that is not a plain file name.
std::string PathInFolder(const std::string& folder, const std::string& name);

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_WORK_FOLDER_H_
