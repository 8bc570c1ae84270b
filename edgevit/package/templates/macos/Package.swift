// swift-tools-version:5.7
import PackageDescription

let package = Package(
    name: "@NAME@",
    platforms: [.macOS("12.0"), .iOS("15.0")],
    products: [
        .library(name: "EdgevitKit", targets: ["EdgevitKit"]),
        .executable(name: "check-model", targets: ["check-model"]),
    ],
    targets: [
        .target(name: "EdgevitKit", resources: [.copy("Model")]),
        .executableTarget(name: "check-model", dependencies: ["EdgevitKit"]),
    ]
)
