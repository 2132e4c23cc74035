// SPDX-License-Identifier: Apache-2.0
// The file systems that an image may hold.
#ifndef FASTOCI_IMAGE_FS_TYPE_H_
#define FASTOCI_IMAGE_FS_TYPE_H_

namespace fastoci {

enum class FsType { kExt4, kErofs };

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_FS_TYPE_H_
