// Detect objects on one image: letterbox, OpenVINO, suppression, boxes in pixels of the image.
//
//   detect MODEL IMAGE.ppm [SCORE [IOU]]
//
// MODEL has one input [1, 3, H, W] (RGB, 0..1) and the outputs boxes [1, A, 4] (x1, y1, x2, y2 in pixels of the network
// input) and scores [1, A, C].

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {  // RGB, row by row
    int width = 0, height = 0;
    std::vector<unsigned char> pixels;
};

struct Detection {
    float x1, y1, x2, y2, score;
    int label;
};

struct Geometry {  // x_network = x_image * scale_x + left
    double scale_x, scale_y;
    int left, top;
};

Image read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + " cannot be read");
    std::string magic;
    int width = 0, height = 0, levels = 0;
    file >> magic >> width >> height >> levels;
    if (magic != "P6" || width < 1 || height < 1 || levels != 255)
        throw std::runtime_error(path + " is no binary PPM (P6) with 255 levels");
    file.get();  // one white space before the pixels
    Image image{width, height, std::vector<unsigned char>(3 * size_t(width) * height)};
    if (!file.read(reinterpret_cast<char*>(image.pixels.data()), image.pixels.size()))
        throw std::runtime_error(path + " ends too early");
    return image;
}

struct Tap {
    int place;
    double weight;
};

// What each of `target` pixels takes from `source` pixels in one direction: averages of areas where the picture shrinks,
// linear interpolation between centres where it grows.
std::vector<std::vector<Tap>> taps(int source, int target, bool shrink) {
    const double ratio = double(source) / target;
    std::vector<std::vector<Tap>> all(target);
    for (int i = 0; i < target; ++i) {
        if (shrink) {
            const double from = i * ratio, to = std::min((i + 1) * ratio, double(source));
            for (int j = int(from); j < to; ++j)
                all[i].push_back({j, (std::min(to, j + 1.0) - std::max(from, double(j))) / (to - from)});
        } else {
            const double centre = (i + 0.5) * ratio - 0.5;
            const int low = int(std::floor(centre));
            const double part = centre - low;
            all[i] = {{std::clamp(low, 0, source - 1), 1 - part}, {std::clamp(low + 1, 0, source - 1), part}};
        }
    }
    return all;
}

// Scale the image to fit into all but `frame` pixels, put it into the middle of grey, and write it as RGB planes in 0..1.
Geometry letterbox(const Image& image, int height, int width, int frame, float* planes) {
    const double ratio = std::min(double(height - frame) / image.height, double(width - frame) / image.width);
    const int h = std::max(1, int(std::nearbyint(image.height * ratio)));
    const int w = std::max(1, int(std::nearbyint(image.width * ratio)));
    const int top = (height - h) / 2, left = (width - w) / 2;
    const bool shrink = h * w < image.height * image.width;
    const auto rows = taps(image.height, h, shrink), columns = taps(image.width, w, shrink);
    std::fill(planes, planes + 3 * size_t(height) * width, 114 / 255.0f);
    for (int y = 0; y < h; ++y)
        for (int x = 0; x < w; ++x)
            for (int channel = 0; channel < 3; ++channel) {
                double value = 0;
                for (const Tap& row : rows[y])
                    for (const Tap& column : columns[x])
                        value += row.weight * column.weight *
                                 image.pixels[3 * (size_t(row.place) * image.width + column.place) + channel];
                planes[(size_t(channel) * height + top + y) * width + left + x] = float(std::nearbyint(value)) / 255;
            }
    return {double(w) / image.width, double(h) / image.height, left, top};
}

float overlap(const Detection& a, const Detection& b) {
    const float w = std::max(0.0f, std::min(a.x2, b.x2) - std::max(a.x1, b.x1));
    const float h = std::max(0.0f, std::min(a.y2, b.y2) - std::max(a.y1, b.y1));
    const float common = w * h;
    return common / ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - common);
}

// The best class of each anchor, best anchors first, each removing the later ones of its class that it overlaps.
std::vector<Detection> suppress(const float* boxes, const float* scores, size_t anchors, size_t classes, float min_score,
                                float max_iou) {
    std::vector<Detection> candidates, kept;
    for (size_t a = 0; a < anchors; ++a) {
        const float* row = scores + a * classes;
        const float* best = std::max_element(row, row + classes);
        const float* box = boxes + 4 * a;
        if (*best > min_score) candidates.push_back({box[0], box[1], box[2], box[3], *best, int(best - row)});
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const Detection& a, const Detection& b) { return a.score > b.score; });
    for (const Detection& candidate : candidates) {
        const bool beaten = std::any_of(kept.begin(), kept.end(), [&](const Detection& better) {
            return better.label == candidate.label && overlap(better, candidate) > max_iou;
        });
        if (!beaten) kept.push_back(candidate);
    }
    return kept;
}

void detect(const std::string& model, const std::string& path, float min_score, float max_iou) {
    ov::Core core;
    // Left to itself OpenVINO takes bf16 where the CPU has it, and numbers would differ from machine to machine.
    const auto network = core.read_model(model);
    ov::CompiledModel compiled =
        core.compile_model(network, "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                           ov::hint::inference_precision(ov::element::f32));
    ov::InferRequest request = compiled.create_infer_request();
    const ov::Shape shape = compiled.input().get_shape();
    if (shape.size() != 4 || shape[0] != 1 || shape[1] != 3)
        throw std::runtime_error(model + " takes no single image [1, 3, H, W]; export it without dynamic_batch");
    const Image image = read_ppm(path);
    // The file says where it was trained with a grey frame (model.shrink).
    const bool framed = network->has_rt_info("framework", "shrink");
    const int frame = framed ? std::stoi(network->get_rt_info<std::string>("framework", "shrink")) : 0;
    const Geometry geometry =
        letterbox(image, int(shape[2]), int(shape[3]), frame, request.get_input_tensor().data<float>());
    request.infer();
    const ov::Tensor boxes = request.get_tensor("boxes"), scores = request.get_tensor("scores");
    for (Detection found : suppress(boxes.data<const float>(), scores.data<const float>(), scores.get_shape()[1],
                                    scores.get_shape()[2], min_score, max_iou)) {
        const auto x = [&](float value) {
            return std::clamp((value - geometry.left) / geometry.scale_x, 0.0, double(image.width));
        };
        const auto y = [&](float value) {
            return std::clamp((value - geometry.top) / geometry.scale_y, 0.0, double(image.height));
        };
        std::printf("%d %.4f %.2f %.2f %.2f %.2f\n", found.label, found.score, x(found.x1), y(found.y1), x(found.x2),
                    y(found.y2));
    }
}

int main(int count, char** arguments) {
    if (count < 3 || count > 5) {
        std::cerr << "usage: detect MODEL IMAGE.ppm [SCORE [IOU]]\n";
        return 2;
    }
    try {
        detect(arguments[1], arguments[2], count > 3 ? std::strtof(arguments[3], nullptr) : 0.4f,
               count > 4 ? std::strtof(arguments[4], nullptr) : 0.45f);
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
}
