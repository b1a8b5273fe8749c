//! Just enough reading of Rust source for the checks: comments and literals blanked out, test items cut, `use`
//! trees spread into paths. Line numbers are kept.

/// Blanks comments, string and character literals with spaces; newlines stay.
pub(crate) fn blank(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end > at {
            for byte in &mut out[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            at = end;
        } else {
            at += 1;
        }
    }
    String::from_utf8(out).unwrap_or_default()
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        at + rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
    } else if rest.starts_with(b"/*") {
        block_comment_end(bytes, at)
    } else if rest[0] == b'"' {
        quoted_end(bytes, at + 1)
    } else if rest[0] == b'r' && !after_word {
        let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
        if rest.get(1 + hashes) != Some(&b'"') {
            return at;
        }
        let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
        let body = at + hashes + 2;
        bytes[body..]
            .windows(close.len())
            .position(|window| window == close)
            .map_or(bytes.len(), |found| body + found + close.len())
    } else if rest[0] == b'\'' {
        // A character, not a lifetime: an escape, or one character and a quote.
        match rest.get(1) {
            Some(b'\\') => {
                rest[2..].iter().skip(1).position(|&byte| byte == b'\'').map_or(at, |found| at + found + 4)
            }
            Some(_) => {
                let width = std::str::from_utf8(&rest[1..rest.len().min(5)])
                    .map_or_else(|error| error.valid_up_to(), str::len);
                let first = std::str::from_utf8(&rest[1..=width]).ok().and_then(|text| text.chars().next());
                let quote = first.map_or(0, |c| c.len_utf8() + 1);
                if quote > 0 && rest.get(quote) == Some(&b'\'') { at + quote + 1 } else { at }
            }
            None => at,
        }
    } else {
        at
    }
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0_u32;
    let mut at = start;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

fn quoted_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Blanks every item that follows `#[cfg(test)]`; takes and gives blanked source.
pub(crate) fn without_tests(blanked: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = blanked.to_owned();
    let mut from = 0;
    while let Some(found) = blanked[from..].find(MARK) {
        let start = from + found;
        let end = item_end(blanked, start + MARK.len());
        let spaces: String =
            blanked[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect::<String>();
        // Blanked source is mostly ASCII; where it isn't, the lengths differ and the text is rebuilt.
        out = format!("{}{}{}", &out[..start], pad(&spaces, end - start), &out[end..]);
        from = end;
    }
    out
}

/// Fills a text with spaces to a length in bytes.
fn pad(text: &str, length: usize) -> String {
    let mut text = text.to_owned();
    while text.len() < length {
        text.push(' ');
    }
    text
}

/// Where an item ends: the `;` or the closing brace at depth zero.
fn item_end(text: &str, start: usize) -> usize {
    let mut depth = 0_i32;
    for (at, byte) in text.bytes().enumerate().skip(start) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth -= 1;
                if depth == 0 && byte == b'}' {
                    return at + 1;
                }
            }
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Every path the source names, with its line: `use` trees spread (`a::{b, c::d}` -> `a::b`, `a::c::d`), and
/// paths in expressions and types as written.
pub(crate) fn paths(blanked: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = blanked[from..].find("use ").map(|at| at + from) {
        let starts_word = !blanked[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let end = blanked[at..].find(';').map_or(blanked.len(), |end| at + end);
        if starts_word {
            let line = line_of(blanked, at);
            spread("", &blanked[at + 4..end], &mut |path| found.push((line, path)));
            from = end;
        } else {
            from = at + 4;
        }
    }
    for (index, line) in blanked.lines().enumerate() {
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        for word in line.split(|c| !is_path(c)).filter(|word| word.contains("::")) {
            found.push((index + 1, word.trim_matches(':').to_owned()));
        }
    }
    found
}

/// Spreads one `use` tree.
fn spread(prefix: &str, tree: &str, out: &mut dyn FnMut(String)) {
    let mut depth = 0_i32;
    let mut start = 0;
    let parts = tree.char_indices().chain(std::iter::once((tree.len(), ',')));
    for (at, c) in parts {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = tree[start..at].trim();
                start = at + 1;
                if let Some((head, rest)) = part.split_once('{') {
                    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
                    spread(&format!("{prefix}{}", head.trim()), inner, out);
                } else if !part.is_empty() {
                    let name = part.split(" as ").next().unwrap_or(part).trim();
                    out(format!("{prefix}{name}"));
                }
            }
            _ => {}
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::{blank, paths, without_tests};

    #[test]
    fn comments_and_literals_are_blanked() {
        let source = "let a = \"std::fs\"; // std::fs\nlet b = 'x'; /* a /* b */ */ let c: &'static str = r#\"\"std\"\"#;";
        let blanked = blank(source);
        assert_eq!(blanked.len(), source.len());
        assert!(!blanked.contains("std"), "{blanked}");
        assert!(blanked.contains("&'static str"));
        assert!(blank("let q = '\\''; unsafe_word").contains("unsafe_word"));
        assert!(blank("let q = '\"'; word").contains("word"));
        assert!(blank("let q = '\u{e9}'; word").contains("word"));
    }

    #[test]
    fn test_items_are_cut() {
        let source = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { {} }\n}\nfn c() {}\n#[cfg(test)]\nuse x::y;\nfn d() {}";
        let kept = without_tests(source);
        assert!(kept.contains("fn a") && kept.contains("fn c") && kept.contains("fn d"));
        assert!(!kept.contains("fn b") && !kept.contains("x::y"));
        assert_eq!(kept.lines().count(), source.lines().count());
    }

    #[test]
    fn use_trees_spread_into_paths() {
        let found =
            paths("use std::{fs::File, time::{Duration, Instant as I}};\nlet a = std::thread::spawn(f);");
        let names: Vec<&str> = found.iter().map(|(_, path)| path.as_str()).collect();
        for wanted in ["std::fs::File", "std::time::Duration", "std::time::Instant", "std::thread::spawn"] {
            assert!(names.contains(&wanted), "{wanted} in {names:?}");
        }
        assert_eq!(found.last().map(|(line, _)| *line), Some(2));
    }
}
