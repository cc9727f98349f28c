// infinipot-unpack: writes a model's weights as floats, so that an engine that rounds activations to 8 bits
// where weights are quantised computes like one that does not.
#include <llama.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: infinipot-unpack IN.gguf OUT.gguf\n");
    return 2;
  }
  llama_model_quantize_params parameters = llama_model_quantize_default_params();
  parameters.ftype = LLAMA_FTYPE_ALL_F32;
  parameters.output_tensor_type = parameters.token_embedding_type = GGML_TYPE_F32;
  parameters.allow_requantize = true;
  parameters.pure = true;
  return llama_model_quantize(argv[1], argv[2], &parameters) == 0 ? 0 : 1;
}
