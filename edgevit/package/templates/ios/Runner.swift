import Foundation

/// Loads the model, checks it, and classifies pictures; what it publishes is shown.
@MainActor
final class Runner: ObservableObject {
    /// What is known once the model is loaded.
    struct Loaded: Sendable {
        let model: EdgevitModel
        let check: SelfCheck
        let latency: Latency
    }

    @Published private(set) var loaded: Loaded?
    @Published private(set) var failure: String?
    @Published private(set) var classes: [FoundClass] = []
    @Published private(set) var gpuMilliseconds: Double?
    @Published private(set) var busy = true

    /// Compiles the kernels, compares with the reference and measures, away from the main thread.
    func start() async {
        guard loaded == nil, failure == nil else {
            return
        }
        let work = Task.detached(priority: .userInitiated) { () throws -> Loaded in
            let folder = try bundledModelFolder()
            let model = try EdgevitModel(folder: folder)
            let check = try SelfCheck.run(model, folder: folder)
            let latency = try Latency.measure(model, try SelfCheck.inputs(model, folder: folder))
            return Loaded(model: model, check: check, latency: latency)
        }
        do {
            loaded = try await work.value
        } catch {
            failure = error.localizedDescription
        }
        busy = false
    }

    /// Finds the classes of a picture.
    func classify(_ data: Data) async {
        guard let model = loaded?.model else {
            return
        }
        busy = true
        let work = Task.detached(priority: .userInitiated) { () throws -> ([FoundClass], Double) in
            guard let preprocessing = model.plan.preprocessing, let index = model.plan.imageInput else {
                throw EdgevitError.input("the model does not say how a picture becomes its input")
            }
            let input = model.plan.inputs[index]
            let tensor = try Picture(data: data).tensor(preprocessing, shape: input.shape)
            let prediction = try model.predict([input.name: tensor])
            return (try model.plan.bestClasses(prediction), prediction.gpuSeconds * 1000)
        }
        do {
            let result = try await work.value
            classes = result.0
            gpuMilliseconds = result.1
            failure = nil
        } catch {
            failure = error.localizedDescription
        }
        busy = false
    }
}
