// What a quantised pot needs to know about a model's keys.
#pragma once

#include <string_view>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "smollm2/llama_engine.hpp"
#include "smollm2/llama_weights.hpp"
#include "smollm2/thread_pool.hpp"
#include "text_model.hpp"

namespace reading {

/// Sentences of several kinds, to see a model's keys at work.
inline constexpr std::string_view calibration_text =
    "Most of the houses in the valley were built of stone, and their roofs had to carry snow for half of the "
    "year. "
    "When the road was finished in 1911, Maria Keller, who was the schoolteacher, wrote: \"Now we are three "
    "hours "
    "from the city, and it is forty years from us.\" What did she mean? Nobody asked her.\n\n"
    "The function takes two arguments, a list of numbers and a limit:\n\n"
    "    def below(numbers, limit):\n"
    "        return [n for n in numbers if n < limit]\n\n"
    "It returns those that are smaller, in their order. For example, below([3, 8, 1], 5) is [3, 1].\n\n"
    "1. Boil 250 ml of water.\n2. Add the rice and a little salt.\n3. Wait for 12 minutes; do not stir.\n\n"
    "Water boils at 100 degrees Celsius at sea level, but at about 93 degrees on a mountain of 2,000 metres, "
    "because "
    "the air presses less. That is why food takes longer up there. Is it true that the Moon has no weather? "
    "Yes: "
    "without an atmosphere there is neither wind nor rain, and the sky is black even at noon.\n\n"
    "Dear Sir or Madam, I am writing about the order that I placed on 3 May (number 48-1107). Two of the "
    "five books "
    "have not arrived, although your letter says that all were sent. Please let me know where they are. "
    "Yours "
    "faithfully, J. Okafor\n\n"
    "Die Katze schläft auf dem Dach. Le chat dort sur le toit. El gato duerme en el tejado.\n";

/// Lets the model read that text.
inline infinipot::KeyChannels key_channels(const smollm2::LlamaWeights& weights, const TextModel& text,
                                           smollm2::ThreadPool& threads) {
  std::vector<Token> tokens;
  text.encode(calibration_text, tokens);
  infinipot::Pot<float> pot({.shape = weights.config().shape(),
                             .capacity = tokens.size(),
                             .key_storage = infinipot::KeyStorage::unrotated,
                             .rope = weights.config().rope(tokens.size())});
  smollm2::LlamaEngine<infinipot::Pot<float>> engine(weights, pot, threads, tokens.size());
  infinipot::Ccd(engine, pot, infinipot::StreamingLlm(), {.keep = 4, .chunk = tokens.size()}).feed(tokens);
  return infinipot::measure_key_channels(pot);
}

}  // namespace reading
