// The log of a pot whose heads keep different tokens, and the page that is made of it.
#include "pot_log.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "options.hpp"
#include "temporary_file.hpp"

namespace reading {
namespace {

using infinipot::Granularity;
using nlohmann::json;
using test::TemporaryFile;

constexpr infinipot::Shape shape{.layers = 2, .query_heads = 40, .kv_heads = 20, .head_dim = 2};

/// Tokens read .. read + count - 1, of which each has its number as NuC.
void append(infinipot::EntryTable& table, std::uint64_t read, std::size_t count) {
  std::vector<infinipot::Entry> entries;
  for (std::uint64_t i = read; i < read + count; ++i) entries.push_back({i, 0, static_cast<float>(i), false});
  table.append(entries);
}

/// Forty lanes with four entries each, of which lane i keeps the first and 1 + i % 3.
PotLog logged() {
  PotLog log(shape, Granularity::head);
  log.read(0, {"One ", "</script>", " <!--", "\n"});
  infinipot::EntryTable table(40, 8);
  append(table, 0, 4);
  infinipot::Selection kept(40, 2);
  for (std::size_t lane = 0; lane < 40; ++lane)
    kept.lane(lane)[1] = static_cast<infinipot::Index>(1 + lane % 3);
  std::vector<float> attention(40 * 8);
  for (std::size_t head = 0; head < 40; ++head) attention[head * 8 + 2] = 0.5F;
  log.choose({1, table, attention, kept});
  table.keep(kept);
  append(table, 4, 1);
  log.read(4, {"\xff"});  // half a character
  log.end(table);
  return log;
}

TEST(PotLog, SaysWhichLanesHoldAToken) {
  const PotLog log = logged();
  ASSERT_EQ(log.distillations().size(), 2U);
  for (const PotLog::Distillation& d : log.distillations()) {
    EXPECT_EQ(d.kept.at(0), (PotLog::Mask{0xffffffff, 0xff}));
    for (std::size_t lane = 0; lane < 40; ++lane)
      for (std::uint64_t position = 1; position < 4; ++position)
        EXPECT_EQ(d.kept.at(position)[lane / 32] >> lane % 32 & 1U, position == 1 + lane % 3 ? 1U : 0U);
  }
  EXPECT_EQ(log.distillations()[0].tokens_read, 4U);
  EXPECT_EQ(log.distillations()[1].tokens_read, 5U);
  EXPECT_EQ(log.distillations()[1].kept.at(4), (PotLog::Mask{0xffffffff, 0xff}));
  EXPECT_EQ(log.distillations()[0].scores.at(2), 20);
  EXPECT_EQ(log.distillations()[0].scores.at(1), 0);
  EXPECT_EQ(log.nuc(), (std::vector<float>{0, 1, 2, 3, 4}));
}

/// The JSON inside the page, which must end at the first "</script>".
json embedded(const std::string& page) {
  const std::string begin = "<script type=\"application/json\" id=\"data\">";
  const std::size_t from = page.find(begin) + begin.size();
  return json::parse(page.substr(from, page.find("</script>", from) - from));
}

TEST(PotLog, BecomesAPageOfItsOwn) {
  const TemporaryFile file;
  write_page(file.path(), logged(), "a <title>");
  const std::string page = file.content();
  EXPECT_TRUE(page.starts_with("<!DOCTYPE html>"));
  EXPECT_TRUE(page.ends_with("</html>\n"));
  for (const char* network : {"http:", "https:", "src=", "@import", "url("})
    EXPECT_EQ(page.find(network), std::string::npos) << network;
  EXPECT_EQ(page.find("<!--"), std::string::npos);
  const json data = embedded(page);
  EXPECT_EQ(data.at("title"), "a <title>");
  EXPECT_EQ(data.at("layers"), 2);
  EXPECT_EQ(data.at("heads"), 20);
  EXPECT_EQ(data.at("lanes"), 40);
  EXPECT_EQ(data.at("headsPerLane"), 1);
  EXPECT_EQ(data.at("texts"), json({"One ", "</script>", " <!--", "\n", "\xef\xbf\xbd"}));
  EXPECT_EQ(data.at("nuc"), "AAAAAAAAgD8AAABAAABAQAAAgEA=");
  EXPECT_EQ(data.at("distillations").at(0).at("kept"), "AAAAAAEAAAACAAAAAwAAAA==");
  EXPECT_EQ(data.at("distillations").at(0).at("read"), 4);
}

TEST(PotLog, SaysIfItCannotBeWritten) {
  EXPECT_THROW(write_page("/nowhere/page.html", logged(), ""), UsageError);
}

// What a recall brought back is of a text that another run has read.
TEST(PotLog, NotesRecalls) {
  PotLog log(shape, Granularity::shared);
  infinipot::EntryTable table(1, 8);
  append(table, 1, 2);
  append(table, 6, 1);
  log.read(1, {"a", "b"});
  log.read(6, {"c"});
  log.recall(table, {1, 2});
  append(table, 7, 1);
  log.read(7, {"d"});
  log.end(table);
  EXPECT_EQ(log.texts(), (std::vector<std::string>{"", "a", "b", "", "", "", "c", "d"}));
  ASSERT_EQ(log.distillations().size(), 2U);
  const PotLog::Distillation& recall = log.distillations()[0];
  EXPECT_EQ(recall.recalled, (std::vector<std::uint64_t>{1, 2}));
  EXPECT_EQ(recall.kept.size(), 3U);
  EXPECT_EQ(recall.tokens_read, 7U);
  EXPECT_TRUE(log.distillations()[1].recalled.empty());
  ASSERT_EQ(log.nuc().size(), 8U);
  EXPECT_TRUE(std::isnan(log.nuc()[0]));
  EXPECT_EQ(log.nuc()[1], 1);
  EXPECT_TRUE(std::isnan(log.nuc()[5]));
  EXPECT_EQ(log.nuc()[6], 6);
}

}  // namespace
}  // namespace reading
