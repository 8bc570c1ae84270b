import Foundation

/// Does this device compute what ONNX Runtime computed? Inputs and expected outputs are files beside the plan.
public struct SelfCheck: Encodable, Sendable {
    public struct Output: Encodable, Sendable {
        public let name: String
        public let maxAbsError: Double
        public let maxAbsReference: Double
        /// `maxAbsError / maxAbsReference`, which the tolerance limits.
        public let normalisedError: Double
        public let passed: Bool
    }

    public let passed: Bool
    public let reference: String
    public let tolerance: Double
    public let calls: Int
    public let outputs: [Output]
    /// Largest difference, in levels of 0 to 255, between this device's preprocessing of `sample.png` and edgevit's;
    /// nil where the model does not say how pictures are prepared.
    public let preprocessingError: Double?

    /// The largest error of all outputs.
    public var worst: Double {
        outputs.map { $0.normalisedError }.max() ?? 0
    }

    /// Runs the model on the files' inputs and compares.
    ///
    /// - Parameter calls: a kernel that leaves something behind is right once and wrong the second time.
    public static func run(_ model: EdgevitModel, folder: URL, calls: Int = 2) throws -> SelfCheck {
        let check = model.plan.check
        let inputs = try load(folder.appendingPathComponent("input.bin"), check.inputs, model.plan.inputs)
        let expected = try load(folder.appendingPathComponent("expected.bin"), check.outputs, model.plan.outputs)
        var errors = [Double](repeating: 0, count: model.plan.outputs.count)
        for _ in 0..<calls {
            let actual = try model.predict(inputs).outputs
            for (index, output) in model.plan.outputs.enumerated() {
                errors[index] = max(errors[index], try difference(expected[output.name], actual[output.name]))
            }
        }
        var outputs: [Output] = []
        for (index, output) in model.plan.outputs.enumerated() {
            let largest = try expected[output.name]?.values().map { abs($0) }.max() ?? 0
            let quotient = errors[index] == 0 ? 0 : errors[index] / largest
            outputs.append(
                Output(
                    name: output.name,
                    maxAbsError: errors[index],
                    maxAbsReference: largest,
                    normalisedError: quotient,
                    passed: quotient <= check.tolerance
                )
            )
        }
        return SelfCheck(
            passed: outputs.allSatisfy { $0.passed },
            reference: check.reference,
            tolerance: check.tolerance,
            calls: calls,
            outputs: outputs,
            preprocessingError: try checkPreprocessing(model.plan, folder)
        )
    }

    /// The inputs of the check.
    public static func inputs(_ model: EdgevitModel, folder: URL) throws -> [String: Tensor] {
        try load(folder.appendingPathComponent("input.bin"), model.plan.check.inputs, model.plan.inputs)
    }

    private static func load(
        _ file: URL, _ stretches: [Plan.Stretch], _ plans: [Plan.TensorPlan]
    ) throws -> [String: Tensor] {
        let data: Data
        do {
            data = try Data(contentsOf: file)
        } catch {
            throw EdgevitError.damaged("\(file.lastPathComponent): \(error.localizedDescription)")
        }
        guard stretches.count == plans.count else {
            throw EdgevitError.damaged("\(file.lastPathComponent) holds \(stretches.count) tensors")
        }
        var tensors: [String: Tensor] = [:]
        for (stretch, plan) in zip(stretches, plans) {
            guard stretch.offset >= 0, stretch.bytes == plan.place.bytes,
                stretch.offset + stretch.bytes <= data.count
            else {
                throw EdgevitError.damaged("\(file.lastPathComponent) ends within \(plan.name)")
            }
            let part = data.subdata(in: stretch.offset..<(stretch.offset + stretch.bytes))
            tensors[plan.name] = Tensor(shape: plan.shape, dtype: plan.dtype, data: part)
        }
        return tensors
    }

    /// The largest difference of two tensors; infinite where one holds a value that is no number.
    private static func difference(_ expected: Tensor?, _ actual: Tensor?) throws -> Double {
        guard let wanted = try expected?.values(), let found = try actual?.values(), wanted.count == found.count else {
            return Double.infinity
        }
        var worst = 0.0
        for (one, other) in zip(wanted, found) {
            let distance = abs(one - other)
            guard distance.isFinite else {
                return Double.infinity
            }
            worst = max(worst, distance)
        }
        return worst
    }

    private static func checkPreprocessing(_ plan: Plan, _ folder: URL) throws -> Double? {
        let files = (folder.appendingPathComponent("sample.png"), folder.appendingPathComponent("sample.bin"))
        guard let preprocessing = plan.preprocessing, let index = plan.imageInput,
            FileManager.default.fileExists(atPath: files.0.path)
        else {
            return nil
        }
        let wanted = Tensor(
            shape: plan.inputs[index].shape, dtype: "float32", data: try Data(contentsOf: files.1))
        let picture = try Picture(data: try Data(contentsOf: files.0))
        let found = try picture.tensor(preprocessing, shape: plan.inputs[index].shape)
        // One level of a channel moves its values by scale / std.
        let level = preprocessing.scale / (preprocessing.std.max() ?? 1)
        return try difference(wanted, found) / level
    }
}
