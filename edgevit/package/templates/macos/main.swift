import EdgevitKit
import Foundation

/// What is printed.
struct Report: Encodable {
    let model: String
    let artifact: String
    let device: String
    let system: String
    let precision: String
    let fastMath: Bool
    let launches: Int
    let loadSeconds: Double
    let check: SelfCheck
    let latency: Latency?
    let classes: [FoundClass]?
}

/// What the user asked for.
struct Request {
    var folder: URL?
    var image: URL?
    var warmUp = 10
    var runs = 50
    var fastMath = false

    static let usage = """
        usage: check-model [--model FOLDER] [--image FILE] [--warm-up N] [--runs N] [--fast-math]
        Compares the model with the reference outputs beside it, measures it, prints JSON.
        Exit codes: 0 the outputs agree, 1 they do not, 2 wrong usage, 3 the model cannot be run here.
        """

    /// nil if the arguments cannot be understood.
    init?(_ arguments: [String]) {
        var rest = arguments[...]
        while let name = rest.popFirst() {
            if name == "--fast-math" {
                fastMath = true
                continue
            }
            guard let value = rest.popFirst() else {
                return nil
            }
            switch name {
            case "--model":
                folder = URL(fileURLWithPath: value)
            case "--image":
                image = URL(fileURLWithPath: value)
            case "--warm-up":
                guard let number = Int(value), number >= 0 else { return nil }
                warmUp = number
            case "--runs":
                guard let number = Int(value), number >= 0 else { return nil }
                runs = number
            default:
                return nil
            }
        }
    }
}

func report(_ request: Request) throws -> Report {
    let folder = try request.folder ?? bundledModelFolder()
    let begun = Date()
    let model = try EdgevitModel(folder: folder, fastMath: request.fastMath)
    let loadSeconds = Date().timeIntervalSince(begun)
    let check = try SelfCheck.run(model, folder: folder)
    var latency: Latency?
    if request.runs > 0 {
        let inputs = try SelfCheck.inputs(model, folder: folder)
        latency = try Latency.measure(model, inputs, warmUp: request.warmUp, runs: request.runs)
    }
    return Report(
        model: model.plan.model,
        artifact: model.plan.artifact,
        device: model.device.name,
        system: ProcessInfo.processInfo.operatingSystemVersionString,
        precision: model.plan.precision,
        fastMath: request.fastMath,
        launches: model.plan.launches.count,
        loadSeconds: loadSeconds,
        check: check,
        latency: latency,
        classes: try request.image.map { try classes(of: $0, model) }
    )
}

func classes(of image: URL, _ model: EdgevitModel) throws -> [FoundClass] {
    guard let preprocessing = model.plan.preprocessing, let index = model.plan.imageInput else {
        throw EdgevitError.input("the model does not say how a picture becomes its input")
    }
    let input = model.plan.inputs[index]
    let tensor = try Picture(data: try Data(contentsOf: image)).tensor(preprocessing, shape: input.shape)
    return try model.plan.bestClasses(try model.predict([input.name: tensor]))
}

func fail(_ message: String, _ code: Int32) -> Never {
    FileHandle.standardError.write(Data((message + "\n").utf8))
    exit(code)
}

guard let request = Request(Array(CommandLine.arguments.dropFirst())) else {
    fail(Request.usage, 2)
}
do {
    let result = try report(request)
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    encoder.nonConformingFloatEncodingStrategy = .convertToString(
        positiveInfinity: "Infinity", negativeInfinity: "-Infinity", nan: "NaN")
    print(String(decoding: try encoder.encode(result), as: UTF8.self))
    exit(result.check.passed ? 0 : 1)
} catch {
    fail("error: \(error.localizedDescription)", 3)
}
