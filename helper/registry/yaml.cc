// SPDX-License-Identifier: Apache-2.0
#include "registry/yaml.h"

#include <yaml.h>

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 32;

class Reader {
 public:
  explicit Reader(const std::string& text) {
    ok_ = yaml_parser_initialize(&parser_) == 1;
    if (ok_)
      yaml_parser_set_input_string(
          &parser_, reinterpret_cast<const unsigned char*>(text.data()), text.size());
  }
  ~Reader() {
    if (!ok_) return;
    Drop();
    yaml_parser_delete(&parser_);
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  Result<Json> Read() {
    if (!ok_) return ErrnoError("yaml", ENOMEM);
    Json root;
    bool seen = false;
    for (;;) {
      FASTOCI_CHECK_OK(Next());
      if (event_.type == YAML_STREAM_END_EVENT) return root;
      if (event_.type == YAML_STREAM_START_EVENT || event_.type == YAML_DOCUMENT_END_EVENT)
        continue;
      if (event_.type != YAML_DOCUMENT_START_EVENT || seen)
        return Bad("more than one document");
      seen = true;
      FASTOCI_CHECK_OK(Next());
      FASTOCI_TRY(root, Node(0));
    }
  }

 private:
  void Drop() {
    if (have_) yaml_event_delete(&event_);
    have_ = false;
  }
  Status Next() {
    Drop();
    if (yaml_parser_parse(&parser_, &event_) != 1)
      return InvalidError("line " + std::to_string(parser_.problem_mark.line + 1) + ": " +
                          (parser_.problem ? parser_.problem : "malformed"));
    have_ = true;
    return OkStatus();
  }
  Error Bad(const std::string& what) const {
    return InvalidError("line " + std::to_string(event_.start_mark.line + 1) + ": " + what);
  }
  // The node that the current event begins.
  Result<Json> Node(int depth) {
    if (depth > kMaxDepth) return Bad("nested too deeply");
    if (event_.type == YAML_SCALAR_EVENT)
      return Json(std::string(reinterpret_cast<const char*>(event_.data.scalar.value),
                              event_.data.scalar.length));
    if (event_.type == YAML_SEQUENCE_START_EVENT) {
      Json list = Json::array();
      for (;;) {
        FASTOCI_CHECK_OK(Next());
        if (event_.type == YAML_SEQUENCE_END_EVENT) return list;
        FASTOCI_TRY(Json item, Node(depth + 1));
        list.push_back(std::move(item));
      }
    }
    if (event_.type != YAML_MAPPING_START_EVENT) return Bad("aliases are not supported");
    Json map = Json::object();
    for (;;) {
      FASTOCI_CHECK_OK(Next());
      if (event_.type == YAML_MAPPING_END_EVENT) return map;
      if (event_.type != YAML_SCALAR_EVENT) return Bad("a key is no scalar");
      FASTOCI_TRY(Json key, Node(depth + 1));
      const std::string name = key.get<std::string>();
      if (map.contains(name)) return Bad("\"" + name + "\" is there twice");
      FASTOCI_CHECK_OK(Next());
      FASTOCI_TRY(map[name], Node(depth + 1));
    }
  }

  yaml_parser_t parser_;
  yaml_event_t event_;
  bool ok_ = false;
  bool have_ = false;
};

}  // namespace

Result<Json> ParseYaml(const std::string& text) { return Reader(text).Read(); }

}  // namespace fastoci
