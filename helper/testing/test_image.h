// SPDX-License-Identifier: Apache-2.0
// TestImage: layers that are converted, assembled and written to a file as the device that
// a node would see. The file is read back with libext2fs.
#ifndef FASTOCI_TESTING_TEST_IMAGE_H_
#define FASTOCI_TESTING_TEST_IMAGE_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/digest.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "image/fs_builder.h"
#include "image/assemble.h"

namespace fastoci {

struct TestFile {
  uint32_t ino = 0, mode = 0, uid = 0, gid = 0, links = 0;
  int64_t mtime_sec = 0;
  uint32_t mtime_nsec = 0, rdev = 0;
  uint64_t size = 0;
  uint32_t flags = 0;
  std::string data;  // of a file or a symbolic link
  std::map<std::string, std::string> xattrs;
};

class TestImage {
 public:
  struct Layer {
    std::string tar;
    bool gzip = true;
  };
  // base: bytes of a base layer without ZFile and wrapper to build on, or "".
  static Result<TestImage> Make(const std::vector<Layer>& layers, FsType fs_type = FsType::kExt4,
                                const std::string& base = "");
  // From layers that somebody else made; data_spaces[i] is what layer i's blob
  // decodes to.
  static Result<TestImage> Assembled(const AssembleInput& input,
                                     const std::vector<std::string>& data_spaces);
  TestImage(TestImage&&) = default;
  TestImage& operator=(TestImage&&) = default;
  ~TestImage();

  // "" if e2fsck -fn or fsck.erofs finds nothing, or what it says.
  std::string Fsck() const;
  std::optional<TestFile> Find(const std::string& path) const;
  std::vector<std::string> List(const std::string& path) const;  // without "." and ".."
  // The device, as a file.
  const std::string& path() const { return path_; }
  const Bytes& assembled() const { return assembled_; }
  const std::vector<Bytes>& meta_layers() const { return meta_layers_; }

 private:
  TestImage() = default;
  Status Flatten(const std::vector<std::string>& data_spaces);
  FsType fs_type_ = FsType::kExt4;
  std::string path_;
  Bytes assembled_;
  std::vector<Bytes> meta_layers_;
};

}  // namespace fastoci

#endif  // FASTOCI_TESTING_TEST_IMAGE_H_
