//! Counts the messages of a file before any of them is decoded, since an empty message takes two bytes in a file and hundreds
//! in memory.
use super::ImportError;

/// The limit of messages, which is more than any network has. As many empty ones take less than 100 MB when decoded.
const MAX_MESSAGES: usize = 200_000;

/// The limit of the nesting of graphs in nodes.
const MAX_DEPTH: usize = 32;

/// The messages of `onnx.proto` that hold others.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Function,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Leaf,
}

impl Message {
    /// Returns the message in a field with a length, if it is decoded into a value of its own.
    fn field(self, tag: u64) -> Option<Self> {
        Some(match (self, tag) {
            (Self::Model, 7) | (Self::Attribute, 6) => Self::Graph,
            (Self::Model, 25) => Self::Function,
            (Self::Function, 7) | (Self::Graph, 1) => Self::Node,
            (Self::Function, 11) | (Self::Node, 5) => Self::Attribute,
            (Self::Graph, 5) | (Self::Attribute, 5) => Self::Tensor,
            (Self::Function, 12) | (Self::Graph, 11..=13) => Self::ValueInfo,
            (Self::ValueInfo, 2) => Self::Type,
            (Self::Type, 1) => Self::TensorType,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Model, 8 | 14)
            | (Self::Function, 4..=6 | 9)
            | (Self::Node, 1 | 2)
            | (Self::Attribute, 9)
            | (Self::Tensor, 13)
            | (Self::Shape, 1) => Self::Leaf,
            _ => return None,
        })
    }
}

/// Checks the number and the nesting of messages.
///
/// # Errors
/// There are more messages, or deeper ones, than a network has, or the bytes are no protocol buffers.
pub(super) fn check(bytes: &[u8]) -> Result<(), ImportError> {
    let mut left = MAX_MESSAGES;
    scan(bytes, Message::Model, &mut left, MAX_DEPTH).map_err(|why| ImportError::Malformed { why: why.into() })
}

fn scan(mut bytes: &[u8], message: Message, left: &mut usize, depth: usize) -> Result<(), &'static str> {
    let depth = depth.checked_sub(1).ok_or("graphs within graphs, too deep")?;
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        match key & 7 {
            0 => drop(varint(&mut bytes)?),
            1 => drop(take(&mut bytes, 8)?),
            2 => {
                let length = varint(&mut bytes)?;
                let content = take(&mut bytes, length)?;
                if let Some(child) = message.field(key >> 3) {
                    *left = left.checked_sub(1).ok_or("more parts than any network has")?;
                    if !matches!(child, Message::Leaf) {
                        scan(content, child, left, depth)?;
                    }
                }
            }
            5 => drop(take(&mut bytes, 4)?),
            _ => return Err("a field of no known wire type"),
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, &'static str> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or("cut off")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number that does not end")
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], &'static str> {
    let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len()).ok_or("cut off")?;
    let (content, rest) = bytes.split_at(length);
    *bytes = rest;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_before_it_decodes() {
        // A graph (field 7) of empty nodes (field 1): 2 bytes each.
        let file = |nodes: usize| {
            let body: Vec<u8> = [0x0a, 0x00].repeat(nodes);
            let mut bytes = vec![0x3a];
            let mut length = body.len();
            while length >= 0x80 {
                bytes.push(length as u8 | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend(body);
            bytes
        };
        assert_eq!(check(&file(MAX_MESSAGES - 1)), Ok(()));
        let error = check(&file(MAX_MESSAGES)).unwrap_err();
        assert_eq!(error.to_string(), "not an ONNX model: more parts than any network has");
    }

    #[test]
    fn refuses_what_is_cut_off_or_endless() {
        for (bytes, why) in [
            (&[0x3a][..], "cut off"),
            (&[0x3a, 5, 0][..], "cut off"),
            (&[0xff; 12][..], "a number that does not end"),
            (&[0x3b][..], "a field of no known wire type"),
            (&[0x09, 0][..], "cut off"),
        ] {
            assert_eq!(check(bytes).unwrap_err().to_string(), format!("not an ONNX model: {why}"));
        }
    }
}
