//! A tiny language model with random weights, written as a GGUF file: what a llama.cpp server needs to
//! stream words that mean nothing.
//!
//! The format (version 3): magic, version, counts; then key-value pairs; then the names, shapes, types and
//! offsets of tensors; then, aligned to 32 bytes, the tensors. All integers little-endian, all strings a
//! u64 length and bytes.

const EMBEDDING: u64 = 64;
const HEADS: u32 = 2;
const FEED_FORWARD: u64 = 128;
/// Tokens that fit the model's memory; longer prompts are refused.
pub const CONTEXT: u32 = 512;
const ALIGNMENT: usize = 32;

const UINT32: u32 = 4;
const INT32: u32 = 5;
const FLOAT32: u32 = 6;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

const WORDS: [&str; 40] = [
    "agent", "book", "cloud", "day", "earth", "fire", "grass", "house", "island", "jump", "key",
    "light", "moon", "night", "ocean", "paper", "quiet", "river", "stone", "tree", "under",
    "voice", "water", "year", "zero", "blue", "green", "warm", "cold", "small", "café", "naïve",
    "größe", "日本", "🦀", "fast", "slow", "near", "far", "end",
];

/// What kind of token: as sentencepiece has them.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

/// The model as a file's bytes: always the same ones.
pub fn tiny_model() -> Vec<u8> {
    let tokens = tokens();
    let vocabulary = tokens.len() as u64;
    let pairs = pairs(&tokens);
    let tensors = tensors(vocabulary);
    let mut file = Vec::new();
    file.extend(b"GGUF");
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((pairs.len() as u64).to_le_bytes());
    file.extend(pairs.concat());
    let mut offset = 0u64;
    for (name, shape) in &tensors {
        string(&mut file, name);
        file.extend((shape.len() as u32).to_le_bytes());
        file.extend(shape.iter().flat_map(|size| size.to_le_bytes()));
        file.extend(0u32.to_le_bytes()); // f32
        file.extend(offset.to_le_bytes());
        offset += (shape.iter().product::<u64>() * 4).next_multiple_of(ALIGNMENT as u64);
    }
    let mut random = Random(0x5eed);
    for (name, shape) in &tensors {
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        let row = shape[0];
        for at in 0..shape.iter().product::<u64>() {
            let weight = match name.as_str() {
                // Only words are ever said: no end, no half of a character.
                "output.weight" if at / row < vocabulary - WORDS.len() as u64 => 0.0,
                name if name.ends_with("norm.weight") => 1.0,
                _ => random.next(),
            };
            file.extend(weight.to_le_bytes());
        }
    }
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    file
}

fn tokens() -> Vec<(String, i32)> {
    let special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)];
    let special = special.map(|(text, kind)| (text.to_owned(), kind));
    let bytes = (0..=255).map(|byte: u8| (format!("<0x{byte:02X}>"), BYTE));
    let words = WORDS.map(|word| (format!("\u{2581}{word}"), NORMAL));
    special.into_iter().chain(bytes).chain(words).collect()
}

fn pairs(tokens: &[(String, i32)]) -> Vec<Vec<u8>> {
    let text = |key: &str, value: &str| {
        let mut pair = key_of(key, STRING);
        string(&mut pair, value);
        pair
    };
    let number = |key: &str, value: u32| [key_of(key, UINT32), value.to_le_bytes().into()].concat();
    let array = |key: &str, kind: u32, items: Vec<u8>| {
        let mut pair = key_of(key, ARRAY);
        pair.extend(kind.to_le_bytes());
        pair.extend((tokens.len() as u64).to_le_bytes());
        pair.extend(items);
        pair
    };
    let mut texts = Vec::new();
    tokens.iter().for_each(|(text, _)| string(&mut texts, text));
    let scores = tokens.iter().flat_map(|_| 0f32.to_le_bytes()).collect();
    let kinds = tokens
        .iter()
        .flat_map(|(_, kind)| kind.to_le_bytes())
        .collect();
    let epsilon = [
        key_of("llama.attention.layer_norm_rms_epsilon", FLOAT32),
        1e-5f32.to_le_bytes().into(),
    ];
    let template = "{% for message in messages %}{{ message['content'] }}{% endfor %}";
    vec![
        text("general.architecture", "llama"),
        text("general.name", "tiny random model"),
        number("llama.context_length", CONTEXT),
        number("llama.embedding_length", EMBEDDING as u32),
        number("llama.block_count", 1),
        number("llama.feed_forward_length", FEED_FORWARD as u32),
        number("llama.attention.head_count", HEADS),
        number("llama.attention.head_count_kv", HEADS),
        number("llama.rope.dimension_count", EMBEDDING as u32 / HEADS),
        epsilon.concat(),
        text("tokenizer.ggml.model", "llama"),
        array("tokenizer.ggml.tokens", STRING, texts),
        array("tokenizer.ggml.scores", FLOAT32, scores),
        array("tokenizer.ggml.token_type", INT32, kinds),
        number("tokenizer.ggml.unknown_token_id", 0),
        number("tokenizer.ggml.bos_token_id", 1),
        number("tokenizer.ggml.eos_token_id", 2),
        text("tokenizer.chat_template", template),
    ]
}

fn tensors(vocabulary: u64) -> Vec<(String, Vec<u64>)> {
    [
        ("token_embd.weight", vec![EMBEDDING, vocabulary]),
        ("blk.0.attn_norm.weight", vec![EMBEDDING]),
        ("blk.0.attn_q.weight", vec![EMBEDDING, EMBEDDING]),
        ("blk.0.attn_k.weight", vec![EMBEDDING, EMBEDDING]),
        ("blk.0.attn_v.weight", vec![EMBEDDING, EMBEDDING]),
        ("blk.0.attn_output.weight", vec![EMBEDDING, EMBEDDING]),
        ("blk.0.ffn_norm.weight", vec![EMBEDDING]),
        ("blk.0.ffn_gate.weight", vec![EMBEDDING, FEED_FORWARD]),
        ("blk.0.ffn_up.weight", vec![EMBEDDING, FEED_FORWARD]),
        ("blk.0.ffn_down.weight", vec![FEED_FORWARD, EMBEDDING]),
        ("output_norm.weight", vec![EMBEDDING]),
        ("output.weight", vec![EMBEDDING, vocabulary]),
    ]
    .map(|(name, shape)| (name.to_owned(), shape))
    .into()
}

fn key_of(key: &str, kind: u32) -> Vec<u8> {
    let mut pair = Vec::new();
    string(&mut pair, key);
    pair.extend(kind.to_le_bytes());
    pair
}

fn string(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}

/// Numbers from -1 to 1 (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
