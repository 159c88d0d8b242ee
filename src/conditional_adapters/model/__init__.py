"""Make a pretrained model conditional: find its layers, add adapters, switch between them."""
