// SPDX-License-Identifier: Apache-2.0
#include "image/xattrs.h"

#include "base/byte_reader.h"

namespace fastoci {
namespace {

constexpr char kAccessAcl[] = "system.posix_acl_access", kDefaultAcl[] = "system.posix_acl_default";
// As setxattr(2) takes an ACL: a u32 version, then per entry u16 tag, u16
// permissions, u32 id.
constexpr uint32_t kAclVersion = 2;
constexpr size_t kAclEntryBytes = 8;
enum AclTag : uint16_t {
  kUserObj = 0x01,
  kUser = 0x02,
  kGroupObj = 0x04,
  kGroup = 0x08,
  kMask = 0x10,
  kOther = 0x20,
};

enum class Acl { kNone, kSet, kDamaged };

// The kernel's rules: the owner, users, the group, groups, perhaps a mask, others, in
// this order; a mask is needed if there are users or groups.
Acl Classify(const std::string& value) {
  if (value.empty()) return Acl::kNone;
  ByteReader r(AsBytes(value));
  const uint32_t version = r.U32();
  if (!r.ok()) return Acl::kDamaged;
  if (version != kAclVersion || r.remaining() == 0) return Acl::kNone;
  if (r.remaining() % kAclEntryBytes != 0) return Acl::kDamaged;
  uint16_t wanted = kUserObj;  // the tags that may come
  bool needs_mask = false;
  while (r.remaining() != 0) {
    const uint16_t tag = r.U16(), permissions = r.U16();
    const uint32_t id = r.U32();
    if ((tag & wanted) == 0 || (tag & (tag - 1)) != 0 || (permissions & ~07) != 0) return Acl::kDamaged;
    switch (tag) {
      case kUserObj: wanted = kUser | kGroupObj; break;
      case kGroupObj: wanted = static_cast<uint16_t>(kGroup | kMask | (needs_mask ? 0 : kOther)); break;
      case kUser:
      case kGroup:
        if (id == UINT32_MAX) return Acl::kDamaged;
        needs_mask = true;
        wanted = static_cast<uint16_t>(tag == kUser ? kUser | kGroupObj : kGroup | kMask);
        break;
      case kMask: wanted = kOther; break;
      default: wanted = 0; break;
    }
  }
  return wanted == 0 ? Acl::kSet : Acl::kDamaged;
}

}  // namespace

Result<Xattrs> SettableXattrs(const Xattrs& of_entry, TarType type) {
  Xattrs out;
  for (const auto& [name, value] : of_entry) {
    const bool access = name == kAccessAcl, acl = access || name == kDefaultAcl;
    if (!acl && !name.starts_with("user.") && !name.starts_with("trusted.") && !name.starts_with("security."))
      continue;
    if (acl) {
      const Acl kind = Classify(value);
      if (kind == Acl::kDamaged) return InvalidError("extended attribute " + name + " is no ACL");
      if (kind == Acl::kNone || type == TarType::kSymlink) continue;
      if (!access && type != TarType::kDirectory)
        return InvalidError("extended attribute " + name + ": only a directory can have a default ACL");
    }
    out.emplace(name, value);
  }
  return out;
}

}  // namespace fastoci
