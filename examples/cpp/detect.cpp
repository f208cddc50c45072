// Detect objects on one image: letterbox, OpenVINO, suppression, boxes in pixels of the image.
//
//   detect MODEL IMAGE.ppm [SCORE [IOU]]
//
// MODEL is written by `export-onnx`, or built from that: model.xml, or the ONNX file itself. The file describes its inputs
// and outputs in its metadata, and every form is read: float or uint8 pixels, boxes and scores or the maps of the
// prediction layers, with or without suppression inside. Files of other projects are refused by name.

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <openvino/openvino.hpp>
#include <sstream>
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

// The next word of a PPM header; comments go from # to the end of the line.
std::string word(std::istream& file) {
    std::string text;
    for (int c = file.get(); c != EOF; c = file.get()) {
        if (c == '#') {
            while (c != EOF && c != '\n' && c != '\r') c = file.get();
        }
        const bool space = c == EOF || std::isspace(c);
        if (space && !text.empty()) break;  // this white space ends the header, too
        if (!space) text += char(c);
        if (text.size() > 9) break;
    }
    return text;
}

int number(std::istream& file) {
    const std::string text = word(file);
    const bool digits = !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
    return digits ? std::stoi(text) : 0;
}

Image read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + " cannot be read");
    const std::string magic = word(file);
    const int width = magic == "P6" ? number(file) : 0, height = number(file), levels = number(file);
    if (width < 1 || height < 1 || levels != 255 || size_t(width) * height > (size_t(1) << 28))
        throw std::runtime_error(path + " is no binary PPM (P6) with 255 levels and up to 2^28 pixels");
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

// Scale the image to fit into all but `frame` pixels and put it into the middle of grey: RGB, row by row.
Geometry letterbox(const Image& image, int height, int width, int frame, std::vector<unsigned char>& pixels) {
    const double ratio = std::min(double(height - frame) / image.height, double(width - frame) / image.width);
    const int h = std::max(1, int(std::nearbyint(image.height * ratio)));
    const int w = std::max(1, int(std::nearbyint(image.width * ratio)));
    const int top = (height - h) / 2, left = (width - w) / 2;
    const bool shrink = h * w < image.height * image.width;
    const auto rows = taps(image.height, h, shrink), columns = taps(image.width, w, shrink);
    pixels.assign(3 * size_t(height) * width, 114);
    for (int y = 0; y < h; ++y)
        for (int x = 0; x < w; ++x)
            for (int channel = 0; channel < 3; ++channel) {
                double value = 0;
                for (const Tap& row : rows[y])
                    for (const Tap& column : columns[x])
                        value += row.weight * column.weight *
                                 image.pixels[3 * (size_t(row.place) * image.width + column.place) + channel];
                pixels[3 * (size_t(top + y) * width + left + x) + channel] =
                    (unsigned char)std::clamp(std::nearbyint(value), 0.0, 255.0);
            }
    return {double(w) / image.width, double(h) / image.height, left, top};
}

float overlap(const Detection& a, const Detection& b) {
    const float w = std::max(0.0f, std::min(a.x2, b.x2) - std::max(a.x1, b.x1));
    const float h = std::max(0.0f, std::min(a.y2, b.y2) - std::max(a.y1, b.y1));
    const float common = w * h;
    return common / ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - common);
}

// The best class of each anchor, where its score is above the least one.
std::vector<Detection> best_classes(const std::vector<float>& boxes, const std::vector<float>& scores, float min_score) {
    std::vector<Detection> found;
    const size_t anchors = boxes.size() / 4, classes = anchors ? scores.size() / anchors : 0;
    for (size_t a = 0; a < anchors && classes; ++a) {
        const float* row = scores.data() + a * classes;
        const float* best = std::max_element(row, row + classes);
        const float* box = boxes.data() + 4 * a;
        if (*best > min_score) found.push_back({box[0], box[1], box[2], box[3], *best, int(best - row)});
    }
    return found;
}

// A box that the graph lists once for each of its classes counts for its best one, as anchors do.
std::vector<Detection> once_a_box(std::vector<Detection> listed) {
    std::vector<Detection> found;
    std::stable_sort(listed.begin(), listed.end(),
                     [](const Detection& a, const Detection& b) { return a.score > b.score; });
    for (const Detection& one : listed) {
        const bool known = std::any_of(found.begin(), found.end(), [&](const Detection& other) {
            return one.x1 == other.x1 && one.y1 == other.y1 && one.x2 == other.x2 && one.y2 == other.y2;
        });
        if (!known) found.push_back(one);
    }
    return found;
}

// Best detections first, each removing the later ones of its class that it overlaps.
std::vector<Detection> suppress(std::vector<Detection> candidates, float max_iou) {
    std::vector<Detection> kept;
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

// What the file says of its inputs and outputs.
struct Interface {
    std::string form = "decoded", nms = "none", input = "float";
    std::vector<int> strides;
    bool best_class = false;  // of each anchor, alone in the suppression inside
    int frame = 0;  // of grey pixels around the image, where the network was trained so (model.shrink)
};

Interface read_interface(const ov::Model& network) {
    const auto note = [&](const std::string& name, const std::string& otherwise) {
        return network.has_rt_info("framework", name) ? network.get_rt_info<std::string>("framework", name) : otherwise;
    };
    Interface found{note("form", "decoded"), note("nms", "none"), note("input", "float"), {},
                    note("nms_classes", "all") == "best", std::stoi(note("shrink", "0"))};
    std::stringstream strides(note("strides", ""));
    for (std::string text; std::getline(strides, text, ',');) found.strides.push_back(std::stoi(text));
    return found;
}

// Names of the outputs that the interface promises.
std::vector<std::string> output_names(const Interface& interface) {
    if (interface.nms != "none") return {"num_dets", "boxes", "scores", "classes"};
    if (interface.form != "raw") return {"boxes", "scores"};
    std::vector<std::string> names;
    for (const char* kind : {"logits_", "distances_"})
        for (int stride : interface.strides) names.push_back(kind + std::to_string(stride));
    return names;
}

void check_outputs(const ov::Model& network, const Interface& interface, const std::string& model) {
    for (const std::string& name : output_names(interface)) {
        const auto& outputs = network.outputs();
        const bool found = std::any_of(outputs.begin(), outputs.end(),
                                       [&](const auto& output) { return output.get_names().count(name) > 0; });
        if (!found) throw std::runtime_error(model + " has no output '" + name + "'; export it with 'export-onnx'");
    }
}

// Values of a tensor of any type of numbers.
std::vector<float> values(const ov::Tensor& tensor) {
    const size_t count = tensor.get_size();
    const ov::element::Type type = tensor.get_element_type();
    if (type == ov::element::f32) return {tensor.data<const float>(), tensor.data<const float>() + count};
    if (type == ov::element::i32) return {tensor.data<const int32_t>(), tensor.data<const int32_t>() + count};
    if (type == ov::element::i64) return {tensor.data<const int64_t>(), tensor.data<const int64_t>() + count};
    throw std::runtime_error("an output has values of type " + type.get_type_name() + "; export it in float32");
}

// Boxes [A, 4] and scores [A, C] of the maps [1, C, h, w] and [1, 4 * bins, h, w] of each level.
void decode(ov::InferRequest& request, const Interface& interface, std::vector<float>& boxes, std::vector<float>& scores) {
    for (int stride : interface.strides) {
        const ov::Tensor logits = request.get_tensor("logits_" + std::to_string(stride));
        const ov::Tensor distances = request.get_tensor("distances_" + std::to_string(stride));
        const ov::Shape shape = logits.get_shape();
        const size_t classes = shape[1], width = shape[3], cells = shape[2] * width, bins = distances.get_shape()[1] / 4;
        const std::vector<float> raw = values(logits), sides = values(distances);
        for (size_t cell = 0; cell < cells; ++cell) {
            for (size_t c = 0; c < classes; ++c) scores.push_back(1 / (1 + std::exp(-raw[c * cells + cell])));
            float far[4];
            for (size_t side = 0; side < 4; ++side) {  // the expectation over the bins; of one bin, its value
                float sum = 0, total = 0, most = sides[side * bins * cells + cell];
                for (size_t bin = 1; bin < bins; ++bin) most = std::max(most, sides[(side * bins + bin) * cells + cell]);
                for (size_t bin = 0; bin < bins; ++bin) {
                    const float weight = std::exp(sides[(side * bins + bin) * cells + cell] - most);
                    sum += weight * bin;
                    total += weight;
                }
                far[side] = stride * (bins > 1 ? sum / total : most);
            }
            const float x = (cell % width + 0.5f) * stride, y = (cell / width + 0.5f) * stride;
            for (float corner : {x - far[0], y - far[1], x + far[2], y + far[3]}) boxes.push_back(corner);
        }
    }
}

std::vector<Detection> read_outputs(ov::InferRequest& request, const Interface& interface, float min_score) {
    std::vector<float> boxes, scores;
    if (interface.form == "raw") {
        decode(request, interface, boxes, scores);
        return best_classes(boxes, scores, min_score);
    }
    boxes = values(request.get_tensor("boxes")), scores = values(request.get_tensor("scores"));
    if (interface.nms == "none") return best_classes(boxes, scores, min_score);
    const std::vector<float> classes = values(request.get_tensor("classes"));
    const size_t most = std::min({boxes.size() / 4, scores.size(), classes.size()});
    const size_t count = std::min(most, size_t(std::max(0.0f, values(request.get_tensor("num_dets")).at(0))));
    std::vector<Detection> found;
    for (size_t i = 0; i < count; ++i) {
        const float* box = boxes.data() + 4 * i;
        if (scores[i] > min_score) found.push_back({box[0], box[1], box[2], box[3], scores[i], int(classes[i])});
    }
    return interface.best_class ? found : once_a_box(found);
}

// The image in the order and type of the network's input.
void fill(ov::Tensor input, const std::vector<unsigned char>& pixels, bool bytes) {
    const size_t count = pixels.size() / 3;
    for (size_t i = 0; i < count; ++i)
        for (size_t channel = 0; channel < 3; ++channel) {
            if (bytes)
                input.data<uint8_t>()[3 * i + 2 - channel] = pixels[3 * i + channel];  // BGR
            else
                input.data<float>()[channel * count + i] = pixels[3 * i + channel] / 255.0f;
        }
}

void detect(const std::string& model, const std::string& path, float min_score, float max_iou) {
    ov::Core core;
    const auto network = core.read_model(model);
    const Interface interface = read_interface(*network);
    check_outputs(*network, interface, model);
    const bool bytes = interface.input == "uint8";
    const size_t first = bytes ? 1 : 2, channels = bytes ? 3 : 1;
    const auto type = bytes ? ov::element::u8 : ov::element::f32;
    ov::PartialShape wanted = network->inputs().size() == 1 ? network->input().get_partial_shape() : ov::PartialShape{};
    if (wanted.size() == 4 && wanted[0].is_dynamic()) {
        wanted[0] = 1;
        network->reshape(wanted);
    }
    if (wanted.is_dynamic() || wanted.size() != 4 || wanted[0] != 1 || wanted[channels] != 3 ||
        network->input().get_element_type() != type)
        throw std::runtime_error(model + " takes no single image [1, 3, H, W] of floats or [1, H, W, 3] of bytes; export it "
                                         "with export.batch 1");
    const int height = int(wanted[first].get_length()), width = int(wanted[first + 1].get_length());
    // Left to itself OpenVINO takes bf16 where the CPU has it, and numbers would differ from machine to machine.
    ov::CompiledModel compiled =
        core.compile_model(network, "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                           ov::hint::inference_precision(ov::element::f32));
    ov::InferRequest request = compiled.create_infer_request();
    const Image image = read_ppm(path);
    std::vector<unsigned char> pixels;
    const Geometry geometry = letterbox(image, height, width, interface.frame, pixels);
    fill(request.get_input_tensor(), pixels, bytes);
    request.infer();
    for (Detection found : suppress(read_outputs(request, interface, min_score), max_iou)) {
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
