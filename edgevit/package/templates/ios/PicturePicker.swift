import PhotosUI
import SwiftUI
import UniformTypeIdentifiers

/// The system's picker of one picture; it needs no permission.
struct PicturePicker: UIViewControllerRepresentable {
    let picked: (Data) -> Void

    func makeUIViewController(context: Context) -> PHPickerViewController {
        var configuration = PHPickerConfiguration()
        configuration.filter = .images
        configuration.selectionLimit = 1
        let controller = PHPickerViewController(configuration: configuration)
        controller.delegate = context.coordinator
        return controller
    }

    func updateUIViewController(_ controller: PHPickerViewController, context: Context) {}

    func makeCoordinator() -> Coordinator {
        Coordinator(picked: picked)
    }

    final class Coordinator: NSObject, PHPickerViewControllerDelegate {
        private let picked: (Data) -> Void

        init(picked: @escaping (Data) -> Void) {
            self.picked = picked
        }

        func picker(_ picker: PHPickerViewController, didFinishPicking results: [PHPickerResult]) {
            picker.dismiss(animated: true)
            guard let provider = results.first?.itemProvider else {
                return
            }
            let picked = self.picked
            provider.loadDataRepresentation(forTypeIdentifier: UTType.image.identifier) { data, _ in
                guard let data = data else {
                    return
                }
                DispatchQueue.main.async {
                    picked(data)
                }
            }
        }
    }
}
