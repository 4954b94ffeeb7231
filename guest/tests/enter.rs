fn main() {
    let p = guest::enter_or_exit();
    println!("{p}");
}
