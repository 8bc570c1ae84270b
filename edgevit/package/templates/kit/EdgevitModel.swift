import Foundation
import Metal

/// What one run gave.
public struct Prediction: Sendable {
    /// Outputs by name.
    public let outputs: [String: Tensor]
    /// Time between the GPU's start and end of the commands.
    public let gpuSeconds: Double
    /// Time between the call and its end, copies included.
    public let seconds: Double
}

/// A model that runs on a GPU through Metal, without any other runtime.
///
/// Everything is prepared once: kernels are compiled, weights copied, buffers made. A prediction fills the inputs,
/// sends all launches in one command buffer and waits. Predictions of one model take turns.
public final class EdgevitModel: @unchecked Sendable {
    /// A kernel with everything that its launch takes.
    private struct Step {
        let pipeline: MTLComputePipelineState
        let grid: MTLSize
        let block: MTLSize
        let buffers: [MTLBuffer]
        let offsets: [Int]
    }

    /// Metal's number of buffers that a kernel can take.
    private static let maxBuffers = 31

    public let plan: Plan
    public let device: MTLDevice
    private let queue: MTLCommandQueue
    private let inputs: [MTLBuffer]
    private let weights: MTLBuffer
    private let storages: [MTLBuffer]
    private let steps: [Step]
    private let lock = NSLock()

    /// Loads a folder that edgevit wrote.
    ///
    /// - Parameters:
    ///   - folder: with `plan.json` in it.
    ///   - device: to run on; the system's default if nil.
    ///   - fastMath: lets Metal's compiler reorder and approximate. What edgevit has compared with the reference was
    ///     computed without.
    public init(folder: URL, device chosen: MTLDevice? = nil, fastMath: Bool = false) throws {
        guard let device = chosen ?? MTLCreateSystemDefaultDevice() else {
            throw EdgevitError.noDevice
        }
        guard let queue = device.makeCommandQueue() else {
            throw EdgevitError.gpu("it gives no command queue")
        }
        let plan = try Plan(contentsOf: folder.appendingPathComponent("plan.json"))
        let inputs = try plan.inputs.map { try EdgevitModel.makeBuffer(device, $0.place.bytes, "input \($0.name)") }
        let storages = try plan.storages.map { try EdgevitModel.makeBuffer(device, $0, "storage") }
        let weights = try EdgevitModel.loadWeights(device, folder, plan)

        func find(_ place: Plan.Place) throws -> MTLBuffer {
            let buffers: [MTLBuffer]
            switch place.buffer {
            case .input:
                buffers = inputs
            case .weights:
                buffers = [weights]
            case .storage:
                buffers = storages
            }
            guard buffers.indices.contains(place.index), place.offset >= 0, place.bytes >= 0,
                place.offset + place.bytes <= buffers[place.index].length
            else {
                throw EdgevitError.damaged("plan.json names memory that is not there")
            }
            return buffers[place.index]
        }

        let options = try EdgevitModel.compileOptions(plan.language, fastMath)
        var pipelines: [String: MTLComputePipelineState] = [:]
        var steps: [Step] = []
        for launch in plan.launches {
            if pipelines[launch.kernel] == nil {
                pipelines[launch.kernel] = try EdgevitModel.makePipeline(device, folder, launch.kernel, options)
            }
            guard let pipeline = pipelines[launch.kernel] else { continue }
            try EdgevitModel.checkLimits(device, plan, launch, pipeline)
            steps.append(
                Step(
                    pipeline: pipeline,
                    grid: MTLSize(width: launch.grid[0], height: launch.grid[1], depth: launch.grid[2]),
                    block: MTLSize(width: launch.block[0], height: launch.block[1], depth: launch.block[2]),
                    buffers: try launch.buffers.map { try find($0) },
                    offsets: launch.buffers.map { $0.offset }
                )
            )
        }
        for output in plan.outputs {
            _ = try find(output.place)
        }
        self.plan = plan
        self.device = device
        self.queue = queue
        self.inputs = inputs
        self.weights = weights
        self.storages = storages
        self.steps = steps
    }

    /// Runs the model once and waits for the result.
    ///
    /// - Parameter tensors: inputs by name.
    public func predict(_ tensors: [String: Tensor]) throws -> Prediction {
        lock.lock()
        defer { lock.unlock() }
        return try autoreleasepool { try run(tensors) }
    }

    private func run(_ tensors: [String: Tensor]) throws -> Prediction {
        let begun = DispatchTime.now().uptimeNanoseconds
        for (expected, buffer) in zip(plan.inputs, inputs) {
            try fill(buffer, expected, tensors[expected.name])
        }
        guard let commands = queue.makeCommandBuffer(), let encoder = commands.makeComputeCommandEncoder() else {
            throw EdgevitError.gpu("it takes no commands")
        }
        for step in steps {
            encoder.setComputePipelineState(step.pipeline)
            for index in step.buffers.indices {
                encoder.setBuffer(step.buffers[index], offset: step.offsets[index], index: index)
            }
            // Dispatches of such an encoder run in order, and each sees what those before it wrote.
            encoder.dispatchThreadgroups(step.grid, threadsPerThreadgroup: step.block)
        }
        encoder.endEncoding()
        commands.commit()
        commands.waitUntilCompleted()
        if let error = commands.error {
            throw EdgevitError.gpu(error.localizedDescription)
        }
        guard commands.status == .completed else {
            throw EdgevitError.gpu("the commands did not complete")
        }
        var outputs: [String: Tensor] = [:]
        for output in plan.outputs {
            outputs[output.name] = read(output)
        }
        let ended = DispatchTime.now().uptimeNanoseconds
        return Prediction(
            outputs: outputs,
            gpuSeconds: commands.gpuEndTime - commands.gpuStartTime,
            seconds: Double(ended - begun) / 1e9
        )
    }

    private func fill(_ buffer: MTLBuffer, _ expected: Plan.TensorPlan, _ given: Tensor?) throws {
        guard let given = given else {
            throw EdgevitError.input("\(expected.name) is missing")
        }
        guard given.shape == expected.shape, given.dtype == expected.dtype, given.data.count == expected.place.bytes
        else {
            throw EdgevitError.input(
                "\(expected.name) is \(given.dtype) \(given.shape), the model takes \(expected.dtype) \(expected.shape)"
            )
        }
        given.data.withUnsafeBytes { source in
            if let start = source.baseAddress {
                buffer.contents().copyMemory(from: start, byteCount: source.count)
            }
        }
    }

    private func read(_ output: Plan.TensorPlan) -> Tensor {
        let buffer: MTLBuffer
        switch output.place.buffer {
        case .input:
            buffer = inputs[output.place.index]
        case .weights:
            buffer = weights
        case .storage:
            buffer = storages[output.place.index]
        }
        let start = buffer.contents().advanced(by: output.place.offset)
        return Tensor(shape: output.shape, dtype: output.dtype, data: Data(bytes: start, count: output.place.bytes))
    }

    private static func makeBuffer(_ device: MTLDevice, _ bytes: Int, _ label: String) throws -> MTLBuffer {
        guard bytes <= device.maxBufferLength else {
            throw EdgevitError.limit("\(label) has \(bytes) bytes, a buffer at most \(device.maxBufferLength)")
        }
        // Metal makes no empty buffers.
        guard let buffer = device.makeBuffer(length: max(bytes, 16), options: .storageModeShared) else {
            throw EdgevitError.gpu("it has no memory for \(label) of \(bytes) bytes")
        }
        buffer.label = label
        return buffer
    }

    private static func loadWeights(_ device: MTLDevice, _ folder: URL, _ plan: Plan) throws -> MTLBuffer {
        let data: Data
        do {
            data = try Data(contentsOf: folder.appendingPathComponent("weights.bin"), options: .mappedIfSafe)
        } catch {
            throw EdgevitError.damaged("weights.bin: \(error.localizedDescription)")
        }
        guard data.count == plan.weightsBytes else {
            throw EdgevitError.damaged("weights.bin has \(data.count) bytes, plan.json says \(plan.weightsBytes)")
        }
        let buffer = try makeBuffer(device, data.count, "weights")
        data.withUnsafeBytes { source in
            if let start = source.baseAddress {
                buffer.contents().copyMemory(from: start, byteCount: source.count)
            }
        }
        return buffer
    }

    private static func compileOptions(_ language: String, _ fastMath: Bool) throws -> MTLCompileOptions {
        let options = MTLCompileOptions()
        options.fastMathEnabled = fastMath
        switch language {
        case "metal2.3":
            options.languageVersion = .version2_3
        case "metal2.4":
            options.languageVersion = .version2_4
        case "metal3.0":
            guard #available(iOS 16.0, macOS 13.0, *) else {
                throw EdgevitError.limit("Metal 3.0 came with iOS 16 and macOS 13")
            }
            options.languageVersion = .version3_0
        default:
            throw EdgevitError.damaged("there is no language \(language)")
        }
        return options
    }

    private static func makePipeline(
        _ device: MTLDevice, _ folder: URL, _ name: String, _ options: MTLCompileOptions
    ) throws -> MTLComputePipelineState {
        let file = folder.appendingPathComponent("kernels").appendingPathComponent("\(name).metal.txt")
        let text: String
        do {
            text = try String(contentsOf: file, encoding: .utf8)
        } catch {
            throw EdgevitError.damaged("\(file.lastPathComponent): \(error.localizedDescription)")
        }
        do {
            // Each text defines the same helper types, so each is a library of its own.
            let library = try device.makeLibrary(source: text, options: options)
            guard let function = library.makeFunction(name: name) else {
                throw EdgevitError.damaged("\(file.lastPathComponent) does not define \(name)")
            }
            return try device.makeComputePipelineState(function: function)
        } catch let error as EdgevitError {
            throw error
        } catch {
            throw EdgevitError.kernel(name: name, reason: error.localizedDescription)
        }
    }

    private static func checkLimits(
        _ device: MTLDevice, _ plan: Plan, _ launch: Plan.Launch, _ pipeline: MTLComputePipelineState
    ) throws {
        guard launch.grid.count == 3, launch.block.count == 3, (launch.grid + launch.block).allSatisfy({ $0 > 0 })
        else {
            throw EdgevitError.damaged("a launch of \(launch.kernel) has no valid size")
        }
        guard launch.buffers.count <= maxBuffers else {
            throw EdgevitError.limit("\(launch.kernel) takes \(launch.buffers.count) buffers")
        }
        let threads = launch.block.reduce(1, *)
        guard threads <= pipeline.maxTotalThreadsPerThreadgroup else {
            throw EdgevitError.limit(
                "\(launch.kernel) needs \(threads) threads in a threadgroup, "
                    + "\(device.name) runs \(pipeline.maxTotalThreadsPerThreadgroup) of it"
            )
        }
        let sides = device.maxThreadsPerThreadgroup
        guard launch.block[0] <= sides.width, launch.block[1] <= sides.height, launch.block[2] <= sides.depth else {
            throw EdgevitError.limit("\(launch.kernel) has a threadgroup of \(launch.block) threads")
        }
        guard pipeline.staticThreadgroupMemoryLength <= device.maxThreadgroupMemoryLength else {
            throw EdgevitError.limit(
                "\(launch.kernel) shares \(pipeline.staticThreadgroupMemoryLength) bytes in a threadgroup, "
                    + "\(device.name) has \(device.maxThreadgroupMemoryLength)"
            )
        }
        if plan.usesSimd, pipeline.threadExecutionWidth != plan.limits.simd {
            throw EdgevitError.limit(
                "\(launch.kernel) counts on \(plan.limits.simd) threads executing together, "
                    + "\(device.name) has \(pipeline.threadExecutionWidth)"
            )
        }
    }
}
