import SwiftUI
import UIKit

struct ContentView: View {
    @StateObject private var runner = Runner()
    @State private var picking = false
    @State private var picture: UIImage?

    var body: some View {
        NavigationView {
            List {
                if let failure = runner.failure {
                    Section("Error") {
                        Text(failure)
                    }
                }
                if let loaded = runner.loaded {
                    checkSection(loaded)
                    pictureSection(loaded.model.plan)
                } else if runner.failure == nil {
                    Section {
                        ProgressView("Compiling kernels and checking the model")
                    }
                }
            }
            .navigationTitle("@TITLE@")
        }
        .navigationViewStyle(.stack)
        .task {
            await runner.start()
        }
        .sheet(isPresented: $picking) {
            PicturePicker { data in
                picture = UIImage(data: data)
                Task {
                    await runner.classify(data)
                }
            }
        }
    }

    private func checkSection(_ loaded: Runner.Loaded) -> some View {
        Section("Does this device compute what the reference computed?") {
            row("Result", loaded.check.passed ? "yes" : "NO")
            row("Reference", loaded.check.reference)
            row("Largest error", String(format: "%.2g of %.2g allowed", loaded.check.worst, loaded.check.tolerance))
            if let levels = loaded.check.preprocessingError {
                row("Preprocessing", String(format: "at most %.2f of 255 levels off", levels))
            }
            row("GPU", loaded.model.device.name)
            row("GPU time, median", String(format: "%.2f ms of %ld runs", loaded.latency.gpuMs.median, loaded.latency.runs))
            row("GPU time, p90", String(format: "%.2f ms", loaded.latency.gpuMs.p90))
            row("With copies, median", String(format: "%.2f ms", loaded.latency.wallMs.median))
        }
    }

    private func pictureSection(_ plan: Plan) -> some View {
        Section("Picture") {
            if plan.preprocessing == nil || plan.imageInput == nil {
                Text("The model does not say how a picture becomes its input.")
            } else if plan.classOutput == nil {
                Text("The model has no output that scores classes.")
            } else {
                Button("Choose a picture") {
                    picking = true
                }
                .disabled(runner.busy)
                if let picture = picture {
                    Image(uiImage: picture)
                        .resizable()
                        .scaledToFit()
                        .frame(maxHeight: 240)
                }
                ForEach(runner.classes, id: \.index) { found in
                    row(found.label, String(format: "%.1f %%", found.probability * 100))
                }
                if let milliseconds = runner.gpuMilliseconds {
                    row("GPU time", String(format: "%.2f ms", milliseconds))
                }
            }
        }
    }

    private func row(_ name: String, _ value: String) -> some View {
        HStack {
            Text(name)
            Spacer()
            Text(value)
                .foregroundColor(.secondary)
                .multilineTextAlignment(.trailing)
        }
    }
}
