"""Between parties: sessions, peers, lanes, and the two backends that connect them."""
