pub const SIDE: usize = 28;
pub enum Source {
    Mnist,
    Synthetic,
}
impl Source {
    pub fn name(&self) -> String {
        match self {
            Source::Mnist => "MNIST".into(),
            Source::Synthetic => "synthetic glyphs".into(),
        }
    }
}
pub struct Glyphs(Vec<u8>, Vec<u8>);
impl Glyphs {
    pub fn new(p: Vec<u8>, l: Vec<u8>) -> Glyphs {
        Glyphs(p, l)
    }
    pub fn len(&self) -> usize {
        self.1.len()
    }
    pub fn image(&self, i: usize) -> &[u8] {
        &self.0[i * 784..(i + 1) * 784]
    }
}
