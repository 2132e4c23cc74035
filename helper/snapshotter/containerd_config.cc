// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/containerd_config.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <utility>
#include <vector>

namespace fastoci {
namespace {

constexpr char kMark[] = "  # fastoci-snapshotter setup";
constexpr char kWas[] = "#fastoci-snapshotter setup: ";

using Lines = std::vector<std::string>;

Lines Split(const std::string& text) {
  Lines lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string Join(const Lines& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

std::string Strip(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// "[a."b".c]" -> "a.b.c"; "": the line begins no table.
std::string TableOf(const std::string& line) {
  std::string text = Strip(line);
  if (text.size() < 2 || text[0] != '[') return "";
  const size_t end = text.find(']');
  if (end == std::string::npos || text[1] == '[') return text[1] == '[' ? "[array]" : "";
  std::string name;
  for (char c : text.substr(1, end - 1))
    if (c != '"' && c != '\'' && c != ' ' && c != '\t') name.push_back(c);
  return name;
}

std::string KeyOf(const std::string& line) {
  const std::string text = Strip(line);
  if (text.empty() || text[0] == '#' || text[0] == '[') return "";
  const size_t equals = text.find('=');
  return equals == std::string::npos ? "" : Strip(text.substr(0, equals));
}

struct Table {
  std::string header;  // as it is written
  std::vector<std::pair<std::string, std::string>> values;
};

// In front of the first table, where table is "".
void PutValues(Lines* lines, const Table& table) {
  const std::string name = TableOf(table.header);
  auto begin = lines->begin();
  if (!table.header.empty()) {
    begin = std::find_if(lines->begin(), lines->end(), [&](const std::string& l) { return TableOf(l) == name; });
    if (begin == lines->end()) {
      lines->push_back(table.header + kMark);
      for (const auto& [key, value] : table.values) lines->push_back("  " + key + " = " + value + kMark);
      return;
    }
    ++begin;
  }
  auto end = std::find_if(begin, lines->end(), [](const std::string& l) { return !TableOf(l).empty(); });
  for (auto it = begin; it != end; ++it)
    for (const auto& [key, value] : table.values)
      if (KeyOf(*it) == key) {
        it->insert(0, kWas);
        break;
      }
  Lines added;
  for (const auto& [key, value] : table.values) added.push_back("  " + key + " = " + value + kMark);
  lines->insert(begin, added.begin(), added.end());
}

std::string Quote(const std::string& text) { return '"' + text + '"'; }

int VersionOf(const Lines& lines) {
  for (const std::string& line : lines) {
    if (!TableOf(line).empty()) break;
    if (KeyOf(line) == "version") return std::atoi(Strip(line.substr(line.find('=') + 1)).c_str());
  }
  return 1;
}

}  // namespace

Result<std::string> AddToContainerdConfig(const std::string& text, const ContainerdSetup& setup) {
  Lines lines = Split(RemoveFromContainerdConfig(text));
  const bool empty = std::all_of(lines.begin(), lines.end(), [](const std::string& l) { return Strip(l).empty(); });
  if (empty) lines = {std::string("version = 2") + kMark};
  const int version = VersionOf(lines);
  if (version != 2 && version != 3)
    return InvalidError("containerd's configuration has version " + std::to_string(version) +
                        "; only 2 and 3 are supported: convert it with `containerd config migrate`");
  const auto ours = std::find_if(lines.begin(), lines.end(), [](const std::string& l) {
    return TableOf(l).rfind("proxy_plugins.fastoci", 0) == 0;
  });
  if (ours != lines.end())
    return InvalidError("containerd's configuration has a table [proxy_plugins.fastoci] already; remove it first");
  Table proxy = {"[proxy_plugins.fastoci]", {{"type", Quote("snapshot")}, {"address", Quote(setup.address)}}};
  if (version == 3) proxy.values.emplace_back("capabilities", "[\"remap-ids\"]");
  PutValues(&lines, proxy);
  if (version == 3)
    PutValues(&lines, {"[proxy_plugins.fastoci.exports]",
                       {{"root", Quote(setup.root)}, {"enable_remote_snapshot_annotations", Quote("true")}}});
  if (!setup.cri) return Join(lines);
  // containerd 2.x reads files of version 2, too, but takes these two keys from the table of 1.x only if the
  // file has runtimes as well. 1.x passes over the table of 2.x.
  Table pods = {"[plugins.\"io.containerd.cri.v1.images\"]",
                {{"snapshotter", Quote("fastoci")}, {"disable_snapshot_annotations", "false"}}};
  PutValues(&lines, pods);
  pods.header = "[plugins.\"io.containerd.grpc.v1.cri\".containerd]";
  if (version == 2) PutValues(&lines, pods);
  return Join(lines);
}

std::string RemoveFromContainerdConfig(const std::string& text) {
  const std::string mark = kMark, was = kWas;
  Lines kept;
  for (const std::string& line : Split(text)) {
    if (line.size() >= mark.size() && line.compare(line.size() - mark.size(), mark.size(), mark) == 0) continue;
    kept.push_back(line.rfind(was, 0) == 0 ? line.substr(was.size()) : line);
  }
  return Join(kept);
}

}  // namespace fastoci
