//! Bytes as the choices that they stand for.

pub(super) struct Input {
    data: Vec<u8>,
    at: usize,
}

/// Where things begin and end.
const EDGES: [u64; 16] = [
    0,
    1,
    7,
    512,
    1024,
    4096,
    i16::MAX as u64,
    1 << 30,
    i32::MAX as u64,
    1 << 31,
    u32::MAX as u64,
    1 << 40,
    i64::MAX as u64 - 4096,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

impl Input {
    pub(super) fn new(data: &[u8]) -> Self {
        Input { data: data.to_vec(), at: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.data.len()
    }

    /// The next byte; 0 after the end.
    pub(super) fn byte(&mut self) -> u8 {
        let byte = self.data.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    /// One in so many.
    pub(super) fn one_in(&mut self, count: u8) -> bool {
        self.byte() % count == count - 1
    }

    /// Any number: mostly small ones, and those at the edges of types.
    pub(super) fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..128 => small.into(),
            128..160 => u16::from_le_bytes(self.bytes()).into(),
            edge @ 160..224 => {
                let edge = EDGES[usize::from(edge) % EDGES.len()];
                let beside = i64::from(self.byte() % 3) - 1;
                edge.wrapping_add_signed(beside)
            }
            224.. => u64::from_le_bytes(self.bytes()),
        }
    }
}
