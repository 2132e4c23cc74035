// SPDX-License-Identifier: Apache-2.0
#include "image/file_tree.h"

#include <algorithm>

namespace fastoci {

namespace {

uint32_t LayerOf(const NameEntry& entry) {
  return entry.node->dir ? entry.node->dir->layer : entry.layer;
}

}  // namespace

FileTree::FileTree() {
  root_ = NewNode(EXT2_ROOT_INO, EXT2_FT_DIR);
  root_->dir->parent = root_;
}

FileNode* FileTree::NewNode(uint32_t ino, uint8_t file_type) {
  auto node = std::make_unique<FileNode>();
  node->ino = ino;
  node->file_type = file_type;
  if (file_type == EXT2_FT_DIR) {
    node->dir = std::make_unique<DirectoryNode>();
    node->links = 2;
  }
  FileNode* raw = node.get();
  nodes_[ino] = std::move(node);
  return raw;
}

NameEntry* FileTree::Find(FileNode* dir, std::string_view name) {
  auto it = dir->dir->names.find(name);
  return it == dir->dir->names.end() ? nullptr : &it->second;
}

void FileTree::Add(FileNode* dir, const std::string& name, FileNode* node, uint32_t hash) {
  dir->dir->names[name] = {node, hash, layer_};
  dir->dir->dirty = true;
  if (node->dir) {
    node->dir->parent = dir;
    node->dir->layer = layer_;
    dir->links++;
  }
}

// One name whose node, if it is a directory, is empty.
void FileTree::Unlink(FileNode* dir, std::map<std::string, NameEntry, std::less<>>::iterator it) {
  FileNode* node = it->second.node;
  dir->dir->names.erase(it);
  dir->dir->dirty = true;
  if (node->dir) {
    dir->links--;
  } else if (--node->links > 0) {
    if (fewer_links) fewer_links(node);
    return;
  }
  if (gone) gone(node);
  nodes_.erase(node->ino);
}

// Without recursion: an image may be deeper than a stack.
void FileTree::Remove(FileNode* dir, std::string_view name) {
  auto it = dir->dir->names.find(name);
  if (it == dir->dir->names.end()) return;
  FileNode* top = it->second.node;
  for (FileNode* at = top; at->dir;) {
    auto& names = at->dir->names;
    if (names.empty()) {
      if (at == top) break;
      at = at->dir->parent;
      continue;
    }
    auto first = names.begin();
    FileNode* child = first->second.node;
    if (child->dir && !child->dir->names.empty()) {
      at = child;
    } else {
      Unlink(at, first);
    }
  }
  Unlink(dir, it);
}

void FileTree::RemoveLower(FileNode* dir, std::string_view name) {
  NameEntry* entry = Find(dir, name);
  if (entry == nullptr) return;
  if (LayerOf(*entry) != layer_) {
    Remove(dir, name);
  } else if (entry->node->dir) {
    RemoveLowerChildren(entry->node);
  }
}

void FileTree::RemoveLowerChildren(FileNode* dir) {
  std::vector<FileNode*> todo = {dir};
  while (!todo.empty()) {
    FileNode* at = todo.back();
    todo.pop_back();
    std::vector<std::string> lower;
    for (const auto& [name, entry] : at->dir->names) {
      if (LayerOf(entry) != layer_) {
        lower.push_back(name);
      } else if (entry.node->dir) {
        todo.push_back(entry.node);
      }
    }
    for (const std::string& name : lower) Remove(at, name);
  }
}

void FileTree::Touch(FileNode* dir) {
  for (; dir != root_; dir = dir->dir->parent) dir->dir->layer = layer_;
}

FileNode* FileTree::DirectoryAt(FileNode* dir, const std::string& name) {
  auto found = Walk(dir, name, nullptr);
  return found.ok() ? *found : nullptr;
}

Result<FileNode*> FileTree::Walk(FileNode* from, std::string_view path, const MakeDirFn& make_dir) {
  // The components still to go, last one first.
  std::vector<std::string> todo;
  auto push = [&todo](std::string_view text) {
    std::vector<std::string> names;
    for (size_t at = 0; at < text.size();) {
      size_t end = std::min(text.find('/', at), text.size());
      if (end != at && text.substr(at, end - at) != ".")
        names.emplace_back(text.substr(at, end - at));
      at = end + 1;
    }
    todo.insert(todo.end(), std::make_move_iterator(names.rbegin()),
                std::make_move_iterator(names.rend()));
  };
  push(path);
  FileNode* at = from;
  FileNode* like = nullptr;  // what a lower layer's link, now replaced, made of the path
  for (int links = 0; !todo.empty();) {
    std::string name = std::move(todo.back());
    todo.pop_back();
    if (name == "..") {  // of a symbolic link; the root's parent is the root
      at = at->dir->parent;
      like = nullptr;
      continue;
    }
    NameEntry* entry = Find(at, name);
    if (like != nullptr) like = DirectoryAt(like, name);
    if (make_dir && entry != nullptr && !entry->node->dir && entry->layer != layer_) {
      like = DirectoryAt(at, name);
      Remove(at, name);
      entry = nullptr;
    }
    if (entry == nullptr) {
      if (!make_dir) return static_cast<FileNode*>(nullptr);
      FASTOCI_TRY(at, make_dir(at, name, like));
      continue;
    }
    if (entry->node->file_type == EXT2_FT_SYMLINK) {
      if (++links > kMaxSymlinks) return InvalidError("too many symbolic links in the path");
      std::string target = entry->node->symlink;
      if (target.starts_with('/')) at = root_;
      push(target);
      continue;
    }
    if (!entry->node->dir) {
      if (!make_dir) return static_cast<FileNode*>(nullptr);
      return InvalidError("'" + name.substr(0, 200) + "' in the path is not a directory");
    }
    at = entry->node;
  }
  return at;
}

}  // namespace fastoci
