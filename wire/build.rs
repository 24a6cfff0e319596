//! Compiles the protocol without a system `protoc`: a newcomer has none.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = [
        "proto/mesh.proto",
        "proto/discovery.proto",
        "proto/saved.proto",
        "proto/replicas.proto",
    ];
    for proto in protos {
        println!("cargo:rerun-if-changed={proto}");
    }
    let descriptors = protox::compile(protos, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".meshwright")
        .compile_fds(descriptors)?;
    Ok(())
}
