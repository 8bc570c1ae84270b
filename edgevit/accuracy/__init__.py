"""Does an artifact compute what its model says?"""
