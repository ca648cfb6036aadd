//! The backend against a llama.cpp server.
#[test]
fn the_model_is_written() {
    let model = super::gguf::tiny_model();
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny.gguf");
    std::fs::write(&path, &model).unwrap();
    println!("{} bytes: {}", model.len(), path.display());
}
