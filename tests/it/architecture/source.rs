//! Sources as the checker sees them: code without comments and texts, and the paths in it.

use std::fs;
use std::path::{Path, PathBuf};

/// One file, or a made-up one.
pub(super) struct Source {
    /// Its module path: `wallet::sim`.
    pub(super) module: String,
    /// Its code, without comments, the contents of texts, and items for tests.
    code: String,
}

impl Source {
    pub(super) fn new(module: &str, text: &str) -> Self {
        Self {
            module: module.to_owned(),
            code: without_tests(&bare(text)),
        }
    }

    /// All paths that are named, in full: `crate::a::b` for what starts at `crate`, `super` or `self`, as
    /// written for the rest; single names too; and `name!` for a macro.
    pub(super) fn paths(&self) -> Vec<String> {
        let tokens = tokens(&self.code);
        let mut paths = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if is_word(&tokens[at]) {
                at = path(&tokens, at, String::new(), &mut paths);
            } else {
                at += 1;
            }
        }
        paths.iter().map(|path| self.resolve(path)).collect()
    }

    fn resolve(&self, path: &str) -> String {
        let mut module: Vec<&str> = self.module.split("::").collect();
        let mut rest = path;
        let mut relative = false;
        loop {
            let (first, next) = rest.split_once("::").unwrap_or((rest, ""));
            match first {
                "self" => relative = true,
                "super" => {
                    relative = true;
                    module.pop();
                }
                "agent_compute" => return format!("crate::{next}"),
                _ => break,
            }
            rest = next;
        }
        if !relative {
            return rest.to_owned();
        }
        let parts = ["crate"].into_iter().chain(module);
        let parts = parts.chain((!rest.is_empty()).then_some(rest));
        parts.collect::<Vec<_>>().join("::")
    }
}

/// Every source file under `root`.
pub(super) fn all(root: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    collect(root, &mut files);
    files.sort();
    let read = |file: &PathBuf| {
        let module = module_of(file.strip_prefix(root).unwrap());
        Source::new(&module, &fs::read_to_string(file).unwrap())
    };
    files
        .iter()
        .filter(|file| !is_test(file))
        .map(read)
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// A file of unit tests, as `#[cfg(test)] mod tests;` names it.
fn is_test(file: &Path) -> bool {
    file.iter()
        .any(|part| part == "tests.rs" || part == "tests")
}

fn module_of(file: &Path) -> String {
    let file = file.with_extension("");
    let mut parts: Vec<&str> = file.iter().map(|part| part.to_str().unwrap()).collect();
    if parts.last() == Some(&"mod") {
        parts.pop();
    }
    parts.join("::")
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::`, and every other character by itself.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        let mut token = c.to_string();
        if c.is_alphanumeric() || c == '_' {
            while let Some(next) = chars.next_if(|next| next.is_alphanumeric() || *next == '_') {
                token.push(next);
            }
        } else if c == ':' {
            token.extend(chars.next_if_eq(&':'));
        } else if c.is_whitespace() {
            continue;
        }
        tokens.push(token);
    }
    tokens
}

/// Reads the path or tree of paths that starts at `at`, and says where it ends.
fn path(tokens: &[String], mut at: usize, before: String, paths: &mut Vec<String>) -> usize {
    let mut path = before;
    loop {
        let token = tokens.get(at).map_or("", String::as_str);
        if token == "{" && !path.is_empty() {
            at += 1;
            while at < tokens.len() && tokens[at] != "}" {
                at = match is_word(&tokens[at]) || tokens[at] == "{" {
                    true => self::path(tokens, at, path.clone(), paths),
                    false => at + 1,
                };
            }
            return at + 1;
        }
        if !is_word(token) {
            // `path::*`, or the `::<` of a generic.
            paths.push(path);
            return at;
        }
        // `a::{self}` is `a`.
        if path.is_empty() || token != "self" {
            if !path.is_empty() {
                path.push_str("::");
            }
            path.push_str(token);
        }
        at += 1;
        match tokens.get(at).map_or("", String::as_str) {
            "::" => at += 1,
            "!" if tokens
                .get(at + 1)
                .is_some_and(|next| ["(", "{", "["].contains(&next.as_str())) =>
            {
                paths.push(path + "!");
                return at + 1;
            }
            _ => {
                paths.push(path);
                return at;
            }
        }
    }
}

/// The text without comments, and with empty string and character literals.
fn bare(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let starts = |at: usize, what: &str| {
        what.chars()
            .enumerate()
            .all(|(i, c)| chars.get(at + i) == Some(&c))
    };
    let mut code = String::new();
    let mut at = 0;
    while at < chars.len() {
        let before = code.chars().last();
        let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        if starts(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            let mut depth = 0;
            loop {
                if starts(at, "/*") {
                    depth += 1;
                    at += 2;
                } else if starts(at, "*/") {
                    depth -= 1;
                    at += 2;
                } else {
                    at += 1;
                }
                if depth == 0 || at >= chars.len() {
                    break;
                }
            }
        } else if !in_word && (starts(at, "r\"") || starts(at, "r#") || starts(at, "br")) {
            match raw_text_end(&chars, at) {
                Some(end) => {
                    code.push_str("\"\"");
                    at = end;
                }
                None => {
                    code.push(chars[at]);
                    at += 1;
                }
            }
        } else if chars[at] == '"' {
            code.push_str("\"\"");
            at = quoted_end(&chars, at, '"');
        } else if chars[at] == '\'' && (starts(at + 1, "\\") || chars.get(at + 2) == Some(&'\'')) {
            code.push_str("' '");
            at = quoted_end(&chars, at, '\'');
        } else {
            code.push(chars[at]);
            at += 1;
        }
    }
    code
}

fn quoted_end(chars: &[char], start: usize, quote: char) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Where a raw text that starts at `start` ends; `None` if none starts there.
fn raw_text_end(chars: &[char], start: usize) -> Option<usize> {
    let mut at = start;
    while matches!(chars.get(at), Some('b' | 'r')) {
        at += 1;
    }
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    at += hashes;
    if chars.get(at) != Some(&'"') {
        return None;
    }
    at += 1;
    while at < chars.len() {
        let closing = chars[at] == '"'
            && chars[at + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes;
        at += 1;
        if closing {
            return Some(at + hashes);
        }
    }
    Some(at)
}

/// The code without the items that are there for tests only.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut rest = code;
    let mut kept = String::new();
    while let Some((before, after)) = rest.split_once(MARK) {
        kept.push_str(before);
        let mut depth = 0;
        let end = after.char_indices().find(|(_, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            depth == 0 && matches!(c, '}' | ';')
        });
        rest = end.map_or("", |(at, _)| &after[at + 1..]);
    }
    kept + rest
}
