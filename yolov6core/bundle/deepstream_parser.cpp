// Detections for DeepStream's nvinfer from the outputs of this network: boxes and scores of all anchors, or the list of a
// suppression in the graph. Build it on the device, where DeepStream has its headers, in one line:
//   g++ -std=c++17 -O2 -shared -fPIC -I/opt/nvidia/deepstream/deepstream/sources/includes -I/usr/local/cuda/include
//   -o libdeepstream_parser.so deepstream_parser.cpp
#include <algorithm>
#include <cstring>
#include <vector>

#include "nvdsinfer_custom_impl.h"

namespace {

const NvDsInferLayerInfo *find(const std::vector<NvDsInferLayerInfo> &layers, const char *name) {
    for (const auto &layer : layers)
        if (!std::strcmp(layer.layerName, name)) return &layer;
    return nullptr;
}

// A corner box in pixels of the input, clipped to it, if its score passes the threshold of its class.
void add(const float *box, unsigned label, float score, const NvDsInferNetworkInfo &network,
         const NvDsInferParseDetectionParams &params, std::vector<NvDsInferObjectDetectionInfo> &objects) {
    if (label >= params.numClassesConfigured || score < params.perClassPreclusterThreshold[label]) return;
    const float width = static_cast<float>(network.width), height = static_cast<float>(network.height);
    const float left = std::clamp(box[0], 0.0f, width), top = std::clamp(box[1], 0.0f, height);
    NvDsInferObjectDetectionInfo object{};
    object.classId = label;
    object.left = left;
    object.top = top;
    object.width = std::clamp(box[2], 0.0f, width) - left;
    object.height = std::clamp(box[3], 0.0f, height) - top;
    object.detectionConfidence = score;
    if (object.width > 0 && object.height > 0) objects.push_back(object);
}

}  // namespace

extern "C" bool NvDsInferParseYolov6(std::vector<NvDsInferLayerInfo> const &layers, NvDsInferNetworkInfo const &network,
                                     NvDsInferParseDetectionParams const &params,
                                     std::vector<NvDsInferObjectDetectionInfo> &objects) {
    const auto *boxes = find(layers, "boxes"), *scores = find(layers, "scores");
    if (!boxes || !scores) return false;
    const auto *box = static_cast<const float *>(boxes->buffer), *score = static_cast<const float *>(scores->buffer);
    if (const auto *count = find(layers, "num_dets")) {
        const auto *classes = find(layers, "classes");
        if (!classes) return false;
        const auto *label = static_cast<const int *>(classes->buffer);
        for (int row = 0; row < *static_cast<const int *>(count->buffer); ++row)
            add(box + 4 * row, static_cast<unsigned>(label[row]), score[row], network, params, objects);
        return true;
    }
    const unsigned anchors = scores->inferDims.d[0], classes = scores->inferDims.d[1];
    for (unsigned anchor = 0; anchor < anchors; ++anchor)
        for (unsigned label = 0; label < classes; ++label)
            add(box + 4 * anchor, label, score[anchor * classes + label], network, params, objects);
    return true;
}

CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(NvDsInferParseYolov6);
