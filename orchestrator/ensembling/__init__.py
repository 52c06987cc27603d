"""ensembling"""
