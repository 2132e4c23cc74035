// SPDX-License-Identifier: Apache-2.0
// The URLs to which a registry has redirected us for blobs. The next ranges are asked there
// directly, until the URL expires. Pure; times are Unix time, seconds.
#ifndef FASTOCI_FETCHER_REDIRECTS_H_
#define FASTOCI_FETCHER_REDIRECTS_H_

#include <cstdint>
#include <map>
#include <string>

namespace fastoci {

// Until when a URL may be used, as its query says: X-Amz-Date and -Expires,
// X-Goog-Date and -Expires, Expires (CloudFront, older S3), se (Azure). now + 60 if
// it says nothing.
int64_t UrlExpiry(const std::string& url, int64_t now);

class Redirects {
 public:
  // The URL for the location; "" if there is none that is still good.
  std::string Find(uint32_t location, int64_t now);
  void Put(uint32_t location, const std::string& url, int64_t now);
  void Drop(uint32_t location) { targets_.erase(location); }

 private:
  struct Target {
    std::string url;
    int64_t expires = 0;
  };
  std::map<uint32_t, Target> targets_;
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_REDIRECTS_H_
