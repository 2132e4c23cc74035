// SPDX-License-Identifier: Apache-2.0
// FileTree: the names and inode numbers of the image after the layers so far, and which
// layer brought each of them. It applies the rules of OCI layers: whiteouts and opaque
// directories hide what lower layers brought, never what the same layer brought. It does
// not depend on the file system, and owns no blocks.
#ifndef FASTOCI_IMAGE_FILE_TREE_H_
#define FASTOCI_IMAGE_FILE_TREE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "image/ext4_dir.h"
#include "image/ext4_fs.h"

namespace fastoci {

// As many symbolic links as the kernel follows in one path.
inline constexpr int kMaxSymlinks = 40;

struct DirectoryNode;

struct FileNode {
  uint32_t ino = 0;
  uint32_t links = 1;      // names; of a directory: 2 and one per subdirectory
  uint8_t file_type = 0;   // EXT2_FT_*
  std::string symlink;
  std::vector<FileExtent> extents;
  std::vector<uint32_t> tree_blocks;
  std::unique_ptr<DirectoryNode> dir;
};

struct NameEntry {
  FileNode* node = nullptr;
  uint32_t hash = 0;
  uint32_t layer = 0;  // the one that brought it; for a directory see DirectoryNode
};

struct DirectoryNode {
  FileNode* parent = nullptr;  // the root's is itself
  std::map<std::string, NameEntry, std::less<>> names;
  DirLayout layout;
  uint32_t layer = 0;  // the last one that brought the directory or something in it
  bool dirty = true;
};

class FileTree {
 public:
  FileTree();
  FileNode* root() { return root_; }
  void BeginLayer(uint32_t layer) { layer_ = layer; }
  uint32_t layer() const { return layer_; }

  FileNode* NewNode(uint32_t ino, uint8_t file_type);
  // Null if there is none. The node's directory must be one.
  NameEntry* Find(FileNode* dir, std::string_view name);
  void Add(FileNode* dir, const std::string& name, FileNode* node, uint32_t hash);
  // Removes the name and everything below it. A node that loses its last name is given to
  // gone and then destroyed. A node that keeps another name is given to fewer_links.
  void Remove(FileNode* dir, std::string_view name);
  // Remove only what lower layers brought: RemoveLower() the name and what is below it,
  // RemoveLowerChildren() (an opaque directory) only what is below the directory.
  void RemoveLower(FileNode* dir, std::string_view name);
  void RemoveLowerChildren(FileNode* dir);
  // The current layer brings something in dir. From now on dir and the directories above
  // it belong to this layer. Other names in them may still belong to lower layers.
  void Touch(FileNode* dir);

  // Finds the directory of a path. Follows symbolic links within the image. Returns null if
  // there is none.
  Result<FileNode*> ResolveDirectory(std::string_view path) { return Walk(root_, path, nullptr); }
  // The same for what the current layer brings. Missing directories are made. docker and
  // containerd unpack a layer into a directory of its own, which then lies over the lower
  // layers. So a symbolic link is followed only if the current layer brought it. A lower
  // layer's link or file in the path is replaced by a directory. like: the directory of lower
  // layers that the path led to; null: none.
  using MakeDirFn = std::function<Result<FileNode*>(FileNode* parent, const std::string& name, const FileNode* like)>;
  Result<FileNode*> ResolveForLayer(std::string_view path, const MakeDirFn& make_dir) {
    return Walk(root_, path, make_dir);
  }

  std::function<void(FileNode*)> gone, fewer_links;
  const std::unordered_map<uint32_t, std::unique_ptr<FileNode>>& nodes() const { return nodes_; }

 private:
  Result<FileNode*> Walk(FileNode* from, std::string_view path, const MakeDirFn& make_dir);
  // Of links that lead nowhere: null.
  FileNode* DirectoryAt(FileNode* dir, const std::string& name);
  void Unlink(FileNode* dir, std::map<std::string, NameEntry, std::less<>>::iterator it);

  uint32_t layer_ = 0;
  FileNode* root_;
  std::unordered_map<uint32_t, std::unique_ptr<FileNode>> nodes_;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_FILE_TREE_H_
