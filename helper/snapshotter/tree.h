// SPDX-License-Identifier: Apache-2.0
// Walking and removing trees of directories that containers made, and that they may change
// meanwhile. A tree may be as deep as its file system allows, and its paths longer than
// PATH_MAX. So each step is made from an open directory, and the way up is "..", which must
// lead to the directory that the walk came from. A walk has a handful of open descriptors;
// one for each level was rejected, because a container decides how many levels there are.
// Never follows a symbolic link and never enters what is mounted in the tree, bind mounts of
// the same file system included.
#ifndef FASTOCI_SNAPSHOTTER_TREE_H_
#define FASTOCI_SNAPSHOTTER_TREE_H_

#include <functional>
#include <string>

#include "base/result.h"

namespace fastoci {

// parent: the open directory that has name. Both may have vanished.
struct TreeVisitor {
  std::function<void(int parent, const char* name)> file;       // all that is no directory
  std::function<void(int parent, const char* name)> directory;  // after what is in it
};
// Visits what is below path, but not path itself. An error does not end the walk: the first
// one is returned. What vanishes is no error; kNotFound: there is no path.
Status WalkTree(const std::string& path, const TreeVisitor& visitor);

// Removes path and what is below it, as far as that can be removed. The error is of what is
// left. Succeeds if there is no path.
Status RemoveTree(const std::string& path);

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_TREE_H_
