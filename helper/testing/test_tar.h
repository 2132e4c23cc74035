// SPDX-License-Identifier: Apache-2.0
// TestTar: writes tar streams for tests, well-formed ones and others.
#ifndef FASTOCI_TESTING_TEST_TAR_H_
#define FASTOCI_TESTING_TEST_TAR_H_

#include <cstdint>
#include <map>
#include <string>

namespace fastoci {

class TestTar {
 public:
  struct Header {
    std::string name;
    char type = '0';
    std::string link;
    uint32_t mode = 0644, uid = 0, gid = 0;
    int64_t mtime = 1600000000;
    uint64_t size = 0;
    uint32_t dev_major = 0, dev_minor = 0;
  };
  // Returns the offset of the header.
  size_t Add(const Header& header, const std::string& data = "");
  size_t File(const std::string& name, const std::string& data, uint32_t mode = 0644);
  size_t Dir(const std::string& name, uint32_t mode = 0755);
  size_t Symlink(const std::string& name, const std::string& target);
  size_t HardLink(const std::string& name, const std::string& target);
  // For the next entry (type 'x') or all that follow ('g').
  void Pax(const std::map<std::string, std::string>& records, char type = 'x');
  static std::string PaxRecord(const std::string& key, const std::string& value);
  // The last 512-byte block that was added; call FixChecksum() after a change.
  char* block(size_t offset) { return &out_[offset]; }
  void FixChecksum(size_t offset);
  void Raw(const std::string& bytes) { out_ += bytes; }
  void Pad(char fill = '\0');
  // With the end marker.
  std::string Finish() const { return out_ + std::string(1024, '\0'); }
  const std::string& bytes() const { return out_; }

 private:
  std::string out_;
};

std::string TestGzip(const std::string& data);
// One frame, with a checksum.
std::string TestZstd(const std::string& data);

}  // namespace fastoci

#endif  // FASTOCI_TESTING_TEST_TAR_H_
