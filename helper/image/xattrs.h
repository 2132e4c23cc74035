// SPDX-License-Identifier: Apache-2.0
// Which extended attributes of a tar entry its file gets. They are those that docker and
// containerd set when they unpack the layer: they call setxattr(2) as root and leave out
// what the kernel does not support.
#ifndef FASTOCI_IMAGE_XATTRS_H_
#define FASTOCI_IMAGE_XATTRS_H_

#include <map>
#include <string>

#include "base/result.h"
#include "codec/tar_reader.h"

namespace fastoci {

using Xattrs = std::map<std::string, std::string>;

// type: of the file, which a hard link's entry does not tell. Left out are names of
// other namespaces than user, trusted and security, and ACLs that are empty, of an
// unknown version, or of a symbolic link. kInvalid for what setxattr(2) refuses: an
// ACL that is damaged, and a default ACL of a file that is no directory.
Result<Xattrs> SettableXattrs(const Xattrs& of_entry, TarType type);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_XATTRS_H_
