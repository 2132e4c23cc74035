// SPDX-License-Identifier: Apache-2.0
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <thread>

#include "serve/notification.h"
#include "serve/service.h"
#include "testing/stub_registry.h"

namespace fastoci {
namespace {

using ::testing::HasSubstr;

std::string Digest(char c) { return "sha256:" + std::string(64, c); }

std::string PushOf(const std::string& repository, const std::string& tag, const std::string& digest,
                   const std::string& type = kOciManifest) {
  return R"({"events":[{"action":"push","target":{"mediaType":")" + type + R"(","repository":")" +
         repository + R"(","tag":")" + tag + R"(","digest":")" + digest + R"("}}]})";
}

TEST(Notification, OfDockerRegistry) {
  auto events = ParseNotification(
      R"({"events":[
        {"action":"push","target":{"mediaType":"application/vnd.oci.image.manifest.v1+json",
          "repository":"a/b","tag":"v1","digest":")" + Digest('1') + R"("}},
        {"action":"pull","target":{"mediaType":"application/vnd.oci.image.manifest.v1+json",
          "repository":"a/b","digest":")" + Digest('2') + R"("}},
        {"action":"push","target":{"mediaType":"application/octet-stream",
          "repository":"a/b","digest":")" + Digest('3') + R"("}},
        {"action":"push","target":{"mediaType":"application/vnd.oci.image.index.v1+json",
          "repository":"c","digest":")" + Digest('4') + R"("}},
        {"action":"push","target":{"mediaType":"application/vnd.oci.image.index.v1+json",
          "repository":"../evil","digest":")" + Digest('4') + R"("}},
        {"action":"push","target":{"mediaType":"application/vnd.oci.image.index.v1+json",
          "repository":"c","digest":"sha256:short"}}, 7, null]})");
  ASSERT_TRUE(events.ok()) << events.error().message;
  ASSERT_EQ(events->size(), 2U);
  EXPECT_EQ((*events)[0].repository, "a/b");
  EXPECT_EQ((*events)[0].tag, "v1");
  EXPECT_EQ((*events)[0].digest, Digest('1'));
  EXPECT_EQ((*events)[1].digest, Digest('4'));
  EXPECT_EQ((*events)[1].tag, "");
}

TEST(Notification, OfHarbor) {
  auto events = ParseNotification(
      R"({"type":"PUSH_ARTIFACT","occur_at":1586922308,"operator":"admin","event_data":{
        "resources":[{"digest":")" + Digest('5') + R"(","tag":"latest",
          "resource_url":"hub.example/library/debian:latest"}],
        "repository":{"name":"debian","namespace":"library","repo_full_name":"library/debian"}}})");
  ASSERT_TRUE(events.ok());
  ASSERT_EQ(events->size(), 1U);
  EXPECT_EQ((*events)[0].repository, "library/debian");
  EXPECT_EQ((*events)[0].tag, "latest");
  EXPECT_TRUE(ParseNotification(R"({"type":"PULL_ARTIFACT","event_data":{}})")->empty());
  for (const char* bad : {"", "[]", "{}", "3", R"({"events":{}})", R"({"event_data":1})"})
    EXPECT_FALSE(ParseNotification(bad).ok()) << bad;
}

Result<ServeConfig> Config(const std::string& text) { return ParseServeConfig(text, "c.json"); }

TEST(ServeRules, TheFirstThatMatchesCounts) {
  auto c = Config(R"({"registry":"r.example","rules":[
    {"repository":"prod/secret*","skip":true},
    {"repository":"prod/*","tags":["v*","latest"],"minMB":20,"fstype":"erofs"},
    {"repository":"dev","tags":""}]})");
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(FindRule(*c, "prod/a/b", "v1")->fs_type, "erofs");
  EXPECT_EQ(FindRule(*c, "prod/a", "latest")->min_mb, 20U);
  EXPECT_EQ(FindRule(*c, "prod/a", "x"), nullptr);
  EXPECT_EQ(FindRule(*c, "prod/a", ""), nullptr);
  EXPECT_EQ(FindRule(*c, "prod/secret/a", "v1"), nullptr);
  EXPECT_NE(FindRule(*c, "dev", ""), nullptr);
  EXPECT_EQ(FindRule(*c, "dev", "x"), nullptr);
  EXPECT_EQ(FindRule(*c, "other", "v1"), nullptr);
  auto all = Config(R"({"registry":"r.example:5000","rules":[{}]})");
  EXPECT_NE(FindRule(*all, "any/thing", ""), nullptr);
}

TEST(ServeRules, APlatformIsWrittenAsForTheConvertor) {
  for (const char* platform : {"amd64", "linux/amd64", "x86_64"}) {
    auto c = Config(std::string(R"({"registry":"r","rules":[{"platform":")") + platform + "\"}]}");
    ASSERT_TRUE(c.ok()) << c.error().message;
    EXPECT_EQ(c->rules[0].platform.Text(), "linux/amd64");
  }
  EXPECT_TRUE(Config(R"({"registry":"r","rules":[{"platform":"all"}]})")->rules[0].platform.any());
  EXPECT_TRUE(Config(R"({"registry":"r","rules":[{}]})")->rules[0].platform.any());
}

TEST(ServeRules, WhatIsWrongIsNamed) {
  EXPECT_EQ(Config(R"({"registry":"r","rules":[{"minMB":-1}]})").error().message,
            "c.json: \"rules\" rule 1: \"minMB\" must be a whole number from 0 to 1048576");
  for (const char* bad :
       {"", "[]", "{}", R"({"registry":"r"})", R"({"registry":"r","rules":[]})",
        R"({"registry":"a/b","rules":[{}]})", R"({"registry":"r","rules":[{}],"x":1})",
        R"({"registry":"r","rules":[{"platform":"windows/amd64"}]})", R"({"registry":"r","rules":[{"fstype":"xfs"}]})", R"({"registry":"r","rules":[{"tags":[]}]})",
        R"({"registry":"r","rules":[{}],"workers":0})", R"({"registry":"r","rules":[{}],"directory":"x"})"})
    EXPECT_FALSE(Config(bad).ok()) << bad;
}

class ServeDirTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/fastoci-serve.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string dir_;
};

TEST_F(ServeDirTest, TheQueueKeepsEachManifestOnceAndOverARestart) {
  auto q = std::move(*ServeQueue::Open(dir_ + "/q.db"));
  EXPECT_TRUE(*q->Add("a", "v1", Digest('1'), 100));
  EXPECT_FALSE(*q->Add("a", "v2", Digest('1'), 101));  // another tag of the same manifest
  EXPECT_TRUE(*q->Add("b", "v1", Digest('1'), 102));
  auto job = *q->Take(103);
  ASSERT_TRUE(job);
  EXPECT_EQ(job->repository, "a");
  EXPECT_EQ(job->tries, 1U);
  EXPECT_FALSE(*q->Add("a", "v1", Digest('1'), 104));
  // It ends in the middle: both wait again, none is lost.
  q.reset();
  q = std::move(*ServeQueue::Open(dir_ + "/q.db"));
  EXPECT_EQ((*q->CountByState())["running"], 1U);  // as far as somebody who only adds knows
  ASSERT_TRUE(q->PutBack(/*tried=*/true).ok());
  job = *q->Take(105);
  EXPECT_EQ(job->repository, "a");
  EXPECT_EQ(job->tries, 2U);
  auto second = *q->Take(105);
  EXPECT_EQ(second->repository, "b");
  EXPECT_FALSE(*q->Take(105));
  ASSERT_TRUE(q->Retry(job->id, "the registry is down", 106, 200, false).ok());
  EXPECT_EQ(**q->NextAt(), 200);
  EXPECT_FALSE(*q->Take(199));
  job = *q->Take(200);
  ASSERT_TRUE(q->Retry(job->id, "bad", 201, 300, true).ok());
  EXPECT_FALSE(*q->Take(1000));
  ASSERT_TRUE(q->SetBytes(second->id, 5).ok());
  ASSERT_TRUE(q->Finish(second->id, Digest('9'), 202).ok());
  EXPECT_FALSE(*q->Add("b", "v1", Digest('1'), 203));  // done
  auto counts = *q->CountByState();
  EXPECT_EQ(counts["done"], 1U);
  EXPECT_EQ(counts["failed"], 1U);
  EXPECT_TRUE(*q->Add("a", "v1", Digest('1'), 204));  // pushed again: tried again
  auto list = *q->List(10);
  ASSERT_EQ(list.size(), 2U);
  EXPECT_EQ(list[0].state, "waiting");
  EXPECT_EQ(list[0].tries, 0U);
  EXPECT_EQ(list[1].result, Digest('9'));
  EXPECT_EQ(list[1].bytes, 5U);
  ASSERT_TRUE(q->Forget(203).ok());
  EXPECT_EQ(q->List(10)->size(), 1U);
}

TEST_F(ServeDirTest, AnOrderlyEndIsNoTry) {
  auto q = std::move(*ServeQueue::Open(dir_ + "/q.db"));
  EXPECT_TRUE(*q->Add("a", "v1", Digest('1'), 100));
  for (int i = 0; i < 3; i++) {
    EXPECT_EQ((*q->Take(101))->tries, 1U);
    ASSERT_TRUE(q->PutBack(/*tried=*/false).ok());
  }
  EXPECT_EQ((*q->Take(102))->tries, 1U);
  ASSERT_TRUE(q->PutBack(/*tried=*/true).ok());
  EXPECT_EQ((*q->Take(103))->tries, 2U);
}

TEST_F(ServeDirTest, WhatWasSkippedIsLookedAtAgain) {
  auto q = std::move(*ServeQueue::Open(dir_ + "/q.db"));
  EXPECT_TRUE(*q->Add("a", "sha256-x", Digest('1'), 100));
  ASSERT_TRUE(q->Skip((*q->Take(101))->id, "too small", 102).ok());
  EXPECT_FALSE(*q->Take(103));
  EXPECT_TRUE(*q->Add("a", "v1", Digest('1'), 104));
  auto job = *q->Take(105);
  ASSERT_TRUE(job);
  EXPECT_EQ(job->tag, "v1");
  EXPECT_EQ(job->tries, 1U);
}

TEST(ServePageTest, EscapesWhatOthersChose) {
  ServeJob j;
  j.repository = "<script>";
  j.tag = "a\"b";
  j.state = "failed";
  j.message = "<img src=x>";
  j.digest = Digest('1');
  ServeFigures f;
  f.registry = "r&d";
  const std::string page = ServePage(f, {j});
  EXPECT_EQ(page.find("<script>"), std::string::npos);
  EXPECT_EQ(page.find("<img"), std::string::npos);
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;:a&quot;b"));
  EXPECT_THAT(page, HasSubstr("r&amp;d"));
  EXPECT_THAT(page, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(ServeMetrics(f), HasSubstr("fastoci_convertor_conversions_total{result=\"done\"} 0\n"));
}

std::string Ask(uint16_t port, const std::string& request) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in a = {};
  a.sin_family = AF_INET;
  a.sin_port = htons(port);
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&a), sizeof(a)), 0);
  EXPECT_EQ(::send(fd, request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
  std::string reply;
  char buffer[4096];
  for (ssize_t n; (n = ::recv(fd, buffer, sizeof(buffer), 0)) > 0;)
    reply.append(buffer, static_cast<size_t>(n));
  ::close(fd);
  return reply;
}

TEST(HttpServerTest, AnswersAndRefuses) {
  auto server = HttpServer::Open("127.0.0.1:0", [](const ServedRequest& r) {
    return ServedReply{200, "text/plain", r.method + " " + r.path + " " + r.authorization + " " + r.body};
  });
  ASSERT_TRUE(server.ok()) << server.error().message;
  const uint16_t port = (*server)->port();
  EXPECT_THAT(Ask(port, "POST /x?y HTTP/1.1\r\nauthorization:  Bearer t\r\nContent-Length: 4\r\n\r\nbody"),
              HasSubstr("\r\n\r\nPOST /x Bearer t body"));
  EXPECT_THAT(Ask(port, "GET / HTTP/1.0\r\n\r\n"), HasSubstr("GET / "));
  for (const char* bad : {"x\r\n\r\n", "GET x HTTP/1.1\r\n\r\n", "GET / HTTP/2\r\n\r\n",
                          "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                          "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                          "GET / HTTP/1.1\r\nnocolon\r\n\r\n"})
    EXPECT_THAT(Ask(port, bad), HasSubstr(" 400 ")) << bad;
  EXPECT_THAT(Ask(port, "POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"), HasSubstr(" 413 "));
  EXPECT_FALSE(HttpServer::Open("localhost", nullptr).ok());
  EXPECT_FALSE(HttpServer::Open("127.0.0.1:" + std::to_string(port), nullptr).ok());
}

class ServiceTest : public ServeDirTest {
 protected:
  // What stands in the place of the convertor; it writes its arguments to a file.
  std::string Script(const std::string& body) {
    const std::string path = dir_ + "/convertor";
    std::ofstream(path) << "#!/bin/sh\necho \"$@\" >> " << dir_ << "/calls\n" << body << "\n";
    ::chmod(path.c_str(), 0755);
    return path;
  }
  std::string Calls() {
    std::ifstream in(dir_ + "/calls");
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void Open(const std::string& body, const std::string& rule = "{}", const std::string& more = "") {
    auto config = Config(R"({"registry":")" + stub_.host() + R"(","listen":"127.0.0.1:0","directory":")" +
                         dir_ + R"(/state","rules":[)" + rule + "]" + more + "}");
    ASSERT_TRUE(config.ok()) << config.error().message;
    config_ = *config;
    service_.reset();  // its lock
    auto service = ConvertService::Open(*config, Script(body));
    ASSERT_TRUE(service.ok()) << service.error().message;
    service_ = std::move(*service);
  }
  std::string Image(const std::string& tag, uint64_t bytes = 5000,
                    const std::string& config = "application/vnd.oci.image.config.v1+json") {
    return stub_.AddManifest(
        "demo", tag, kOciManifest,
        R"({"schemaVersion":2,"config":{"mediaType":")" + config +
            R"("},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":")" +
            Digest('7') + R"(","size":)" + std::to_string(bytes) + "}],\"tag\":\"" + tag + "\"}");
  }
  int Post(const std::string& body, const std::string& token = "") {
    return service_->Handle({"POST", "/notify", token, body}).status;
  }
  std::string Page(const std::string& path) { return service_->Handle({"GET", path, "", ""}).body; }
  bool Until(const std::string& path, const std::string& text) {
    for (int i = 0; i < 6000; i++) {
      if (Page(path).find(text) != std::string::npos) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ADD_FAILURE() << text << " is not on " << path << ":\n" << Page(path);
    return false;
  }
  StubRegistry stub_;
  ServeConfig config_;
  std::unique_ptr<ConvertService> service_;
};

TEST_F(ServiceTest, APushIsConvertedOnce) {
  Open("echo x/demo@" + Digest('9'));
  const std::string digest = Image("v1");
  std::thread server([&] { EXPECT_TRUE(service_->Serve().ok()); });
  EXPECT_EQ(Post(PushOf("demo", "v1", digest)), 202);
  EXPECT_EQ(Post(PushOf("demo", "other", digest)), 202);
  Until("/metrics", "conversions_total{result=\"done\"} 1");
  EXPECT_THAT(Page("/"), HasSubstr("demo:v1"));
  EXPECT_THAT(Page("/"), HasSubstr(Digest('9').substr(0, 19)));
  EXPECT_EQ(Page("/healthz"), "ok\n");
  EXPECT_THAT(Calls(), HasSubstr("-r " + stub_.host() + "/demo -g " + digest + " --referrer"));
  const std::string calls = Calls();
  EXPECT_EQ(std::count(calls.begin(), calls.end(), '\n'), 1);
  service_->Stop();
  server.join();
}

TEST_F(ServiceTest, WhatIsNoImageOrTooSmallIsSkippedWithAReason) {
  Open("echo x@" + Digest('9'), R"({"minMB":1})");
  std::thread server([&] { EXPECT_TRUE(service_->Serve().ok()); });
  Post(PushOf("demo", "small", Image("small", 1000)));
  Post(PushOf("demo", "chart", Image("chart", 5 << 20, "application/vnd.cncf.helm.config.v1+json")));
  Post(PushOf("demo", "gone", Digest('8')));
  // What belongs to another image: its referrers' tag, and cosign's signature.
  const std::string of = "sha256-" + std::string(64, 'a');
  Post(PushOf("demo", of, stub_.AddManifest("demo", of, kOciIndex, R"({"manifests":[]})"), kOciIndex));
  Post(PushOf("demo", of + ".sig", Image(of + ".sig", 5 << 20)));
  Post(PushOf("demo", "list", stub_.AddManifest("demo", "list", kOciIndex, R"({"manifests":[{"digest":")" +
                                                Digest('1') + R"(","mediaType":")" + kOciManifest +
                                                R"(","size":1,"platform":{"os":"windows","architecture":"amd64"}}]})"), kOciIndex));
  const std::string artifact = stub_.AddManifest(
      "demo", "art", kOciManifest, R"({"artifactType":"x","subject":{"digest":")" + Digest('1') + R"("}})");
  Post(PushOf("demo", "art", artifact));
  Until("/metrics", "conversions_total{result=\"skipped\"} 7");
  for (const char* why : {"smaller than 1 MB", "an artifact, not an image", "it was deleted", "it belongs to another image",
                          "an index without an image for Linux"})
    EXPECT_THAT(Page("/"), HasSubstr(why));
  EXPECT_EQ(Calls(), "");
  service_->Stop();
  server.join();
}

TEST_F(ServiceTest, AFailureIsTriedAgainAndThenTold) {
  Open("echo 'convertor: layer 1: <bad> gzip' >&2; exit 1", "{}", R"(,"tries":1)");
  std::thread server([&] { EXPECT_TRUE(service_->Serve().ok()); });
  Post(PushOf("demo", "v1", Image("v1")));
  Until("/metrics", "conversions_total{result=\"failed\"} 1");
  EXPECT_THAT(Page("/"), HasSubstr("layer 1: &lt;bad&gt; gzip"));
  service_->Stop();
  server.join();
}

TEST_F(ServiceTest, WhatIsNoUseToTryAgainIsNotTriedAgain) {
  // What memoryMB stops, as the convertor says it.
  Open("case $* in *" + Image("big") + "*) exit " + std::to_string(kConvertorNoMemory) + ";; esac; " +
       "echo 'convertor: layer 1 is in bzip2' >&2; exit " + std::to_string(kConvertorUnsupported));
  std::thread server([&] { EXPECT_TRUE(service_->Serve().ok()); });
  Post(PushOf("demo", "v1", Image("v1")));
  Post(PushOf("demo", "big", Image("big")));
  Until("/metrics", "conversions_total{result=\"failed\"} 2");
  EXPECT_THAT(Page("/"), HasSubstr("layer 1 is in bzip2"));
  EXPECT_THAT(Page("/"), HasSubstr("needs more memory than memoryMB allows (2048)"));
  service_->Stop();
  server.join();
}

TEST_F(ServiceTest, AConversionThatIsKilledNamesTheLimitOfMemory) {
  Open("kill -ABRT $$", "{}", R"(,"tries":1)");
  std::thread server([&] { EXPECT_TRUE(service_->Serve().ok()); });
  Post(PushOf("demo", "v1", Image("v1")));
  Until("/metrics", "conversions_total{result=\"failed\"} 1");
  EXPECT_THAT(Page("/"), HasSubstr("killed by signal 6; it may need more memory than memoryMB"));
  service_->Stop();
  server.join();
}

// The image ends the service itself, each time that it is looked at.
TEST_F(ServiceTest, WhatEndsTheServiceIsGivenUp) {
  Open("echo x@" + Digest('9'), "{}", R"(,"tries":2)");
  const std::string bad = Image("bad"), good = Image("good");
  service_.reset();
  auto q = std::move(*ServeQueue::Open(config_.directory + "/queue.db"));
  ASSERT_TRUE(*q->Add("demo", "bad", bad, 1));
  for (int i = 0; i < 2; i++) {
    ASSERT_TRUE(*q->Take(2));
    ASSERT_TRUE(q->PutBack(/*tried=*/true).ok());
  }
  ASSERT_TRUE(*q->Add("demo", "good", good, 3));
  q.reset();
  Open("echo x@" + Digest('9'), "{}", R"(,"tries":2)");
  EXPECT_EQ(*service_->Sweep(), 1U);
  EXPECT_THAT(Page("/"), HasSubstr("the service ended while it was at work on this image"));
  EXPECT_THAT(Page("/metrics"), HasSubstr("conversions_total{result=\"done\"} 1"));
}

TEST_F(ServiceTest, APlatformOfAnIndexIsFoundWhereverItStands) {
  const std::string image = Image("v1");
  auto index = [](const std::string& digest, const std::string& platform) {
    return R"({"manifests":[{"digest":")" + digest + R"(","mediaType":"","size":1)" + platform + "}]}";
  };
  const std::string inner = stub_.AddManifest("demo", "inner", kOciIndex,
                                              index(image, R"(,"platform":{"os":"linux","architecture":"arm64"})"));
  const std::string outer = stub_.AddManifest("demo", "outer", kOciIndex, index(inner, ""));
  for (const char* platform : {"linux/arm64", "arm64", "all"}) {
    std::filesystem::remove_all(dir_ + "/state");
    std::filesystem::remove(dir_ + "/calls");
    Open("echo x@" + Digest('9'), std::string(R"({"tags":"outer","platform":")") + platform + "\"}");
    EXPECT_EQ(*service_->Sweep(), 0U);
    EXPECT_THAT(Calls(), HasSubstr("-g " + outer)) << platform << Page("/");
  }
  std::filesystem::remove(dir_ + "/calls");
  Open("echo x@" + Digest('9'), R"({"tags":"inner","platform":"amd64"})");
  EXPECT_EQ(*service_->Sweep(), 0U);
  EXPECT_EQ(Calls(), "");
  EXPECT_THAT(Page("/"), HasSubstr("an index without an image for linux/amd64"));
}

TEST_F(ServiceTest, AnImageForAnotherPlatformThanTheRulesIsSkipped) {
  const std::string config = stub_.AddBlob(R"({"os":"linux","architecture":"arm","variant":"v6"})");
  stub_.AddManifest("demo", "arm", kOciManifest,
                    R"({"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":")" +
                        config + R"("},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":")" +
                        Digest('7') + R"(","size":5000}]})");
  Open("echo x@" + Digest('9'), R"({"platform":"linux/arm/v7"})");
  EXPECT_EQ(*service_->Sweep(), 0U);
  EXPECT_EQ(Calls(), "");
  EXPECT_THAT(Page("/"), HasSubstr("it is for linux/arm/v6, not for linux/arm/v7"));
  Open("echo x@" + Digest('9'), R"({"platform":"linux/arm/v6"})");
  EXPECT_EQ(*service_->Sweep(), 0U);
  EXPECT_THAT(Calls(), HasSubstr("--platform linux/arm/v6"));
}

TEST_F(ServiceTest, TheRulesOfNowCountForWhatWasSkipped) {
  Image("v1", 5000);
  Open("echo x@" + Digest('9'), R"({"minMB":500})");
  EXPECT_EQ(*service_->Sweep(), 0U);
  EXPECT_EQ(Calls(), "");
  Open("echo x@" + Digest('9'));
  EXPECT_EQ(*service_->Sweep(), 0U);
  EXPECT_THAT(Calls(), HasSubstr("--referrer"));
}

TEST_F(ServiceTest, OneProcessConvertsInADirectory) {
  Image("v1");
  Open("echo x@" + Digest('9'));
  auto second = ConvertService::Open(config_, dir_ + "/convertor");
  ASSERT_TRUE(second.ok()) << second.error().message;
  EXPECT_EQ((*second)->Serve().error().err, EBUSY);
  EXPECT_EQ(*(*second)->Sweep(), 0U);  // it only queues
  EXPECT_EQ(Calls(), "");
  EXPECT_THAT(Page("/metrics"), HasSubstr("{state=\"waiting\"} 1"));
  // The first one's conversions go on as they are.
  auto q = std::move(*ServeQueue::Open(config_.directory + "/queue.db"));
  ASSERT_TRUE(*q->Take(std::time(nullptr)));
  second = ConvertService::Open(config_, dir_ + "/convertor");
  EXPECT_EQ((*q->CountByState())["running"], 1U);
}

TEST_F(ServiceTest, ASweepSaysThatAnImageCannotBeRead) {
  Image("v1");
  Open("echo x@" + Digest('9'));
  stub_.Inject(Fault::kStatus, 1000, 403);
  EXPECT_EQ(*service_->Sweep(), 1U);
}

TEST_F(ServiceTest, NotificationsNeedTheToken) {
  std::ofstream(dir_ + "/token") << "Bearer geheim\n";
  Open("exit 1", "{}", R"(,"tokenFile":")" + dir_ + R"(/token")");
  EXPECT_EQ(Post(PushOf("demo", "v1", Digest('1'))), 401);
  EXPECT_EQ(Post(PushOf("demo", "v1", Digest('1')), "Bearer geheiM"), 401);
  EXPECT_EQ(Post(PushOf("demo", "v1", Digest('1')), "Bearer geheim"), 202);
  EXPECT_EQ(Post("{}", "Bearer geheim"), 400);
  EXPECT_THAT(Page("/metrics"), HasSubstr("notifications_refused_total 3"));
  EXPECT_EQ(service_->Handle({"GET", "/notify", "", ""}).status, 405);
  EXPECT_EQ(service_->Handle({"POST", "/", "", ""}).status, 405);
  EXPECT_EQ(service_->Handle({"GET", "/x", "", ""}).status, 404);
}

TEST_F(ServiceTest, ASweepTakesWhatIsThereAndEnds) {
  StubHabits habits;
  habits.referrers_page = 1;  // tags come one at a time
  stub_.SetHabits(habits);
  Image("v1");
  Image("v2");
  Image("x");
  Open("echo x@" + Digest('9'), R"({"tags":"v*"})");
  auto failed = service_->Sweep();
  ASSERT_TRUE(failed.ok()) << failed.error().message;
  EXPECT_EQ(*failed, 0U);
  EXPECT_THAT(Page("/metrics"), HasSubstr("conversions_total{result=\"done\"} 2"));
  Open("exit 9", R"({"tags":"x"})", R"(,"tries":1)");
  EXPECT_EQ(*service_->Sweep(), 1U);
}

}  // namespace
}  // namespace fastoci
